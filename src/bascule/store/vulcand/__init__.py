"""An existing vulcand tree in etcd, served live and read only.

    etcd:  /vulcand/backends/app/servers/a1 = {"URL": "http://10.0.0.5:8080"}
            │ store.py     reads and watches, one object's change at a time
            ▼
           objects.py      one object of vulcand to one of ours; golang.py reads Go's JSON, durations and addresses
           routes.py       route expressions; regexps.py RE2 to PCRE2
            ▼
    ours:  backends/app/servers/a1 = {"url": "http://10.0.0.5:8080"}

docs/vulcand.md says what becomes what. What would be less safe without a part of it is refused, not served without.
"""
