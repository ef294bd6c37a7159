"""The store in etcd: the acceptance suite, and what is of etcd alone."""

from bascule.store.etcd.store import EtcdStore
from store.acceptance_writable import WritableAcceptance
from store.prefixes import PrefixHarness


class EtcdHarness(PrefixHarness):
    store = EtcdStore
    root = "/fresh"
    lease_ms = 2000


class TestEtcd(WritableAcceptance):
    harness_type = EtcdHarness
