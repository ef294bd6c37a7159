"""Real etcd servers on loopback: one or several members, with TLS and users, that can be stopped, frozen and restored."""

import base64
import contextlib
import functools
import json
import os
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from bascule.model.tree import EtcdOptions
from kit.waiting import free_port, until

START_S = 30.0


class Member:
    """One etcd process with a data directory of its own."""

    def __init__(self, cluster: "Etcd", name: str) -> None:
        self.cluster = cluster
        self.name = name
        self.client_port = free_port()
        self.peer_port = free_port()
        self.data = cluster.directory / name
        self.log = cluster.directory / f"{name}.log"
        self.process: subprocess.Popen[bytes] | None = None

    @property
    def endpoint(self) -> str:
        """The member's URL for clients."""
        return f"{'https' if self.cluster.tls else 'http'}://127.0.0.1:{self.client_port}"

    @property
    def peer(self) -> str:
        """The member's URL for other members."""
        return f"http://127.0.0.1:{self.peer_port}"

    def start(self) -> None:
        """Start the process; it may not answer yet."""
        members = ",".join(f"{member.name}={member.peer}" for member in self.cluster.members)
        command = ["etcd", "--name", self.name, "--data-dir", str(self.data)]
        command += ["--listen-client-urls", self.endpoint, "--advertise-client-urls", self.endpoint]
        command += ["--listen-peer-urls", self.peer, "--initial-advertise-peer-urls", self.peer]
        command += ["--initial-cluster", members, "--logger", "zap", *self.cluster.flags]
        environment = {key: value for key, value in os.environ.items() if not key.startswith("ETCD")}
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(command, stdout=log, stderr=log, env=environment, start_new_session=True)

    def signal(self, number: signal.Signals) -> None:
        """Send a signal."""
        assert self.process is not None
        self.process.send_signal(number)

    def freeze(self) -> None:
        """Stop it so that its sockets stay open and nothing answers."""
        self.signal(signal.SIGSTOP)

    def thaw(self) -> None:
        """Let it go on."""
        self.signal(signal.SIGCONT)

    def kill(self) -> None:
        """End it at once; SIGKILL works on a frozen process too."""
        if self.process is not None:
            with contextlib.suppress(ProcessLookupError):
                self.process.kill()
            self.process.wait()
            self.process = None

    def stop(self) -> None:
        """End it in order."""
        assert self.process is not None
        self.process.terminate()
        self.process.wait(20)
        self.process = None


class Etcd:
    """A cluster of members (one, unless told) in a private directory. Use it as a context."""

    def __init__(self, members: int = 1, flags: Sequence[str] = (), *, tls: "Mapping[str, Path] | None" = None) -> None:
        self.directory = Path(tempfile.mkdtemp(prefix="etcd-", dir="/tmp"))
        self.tls = tls
        # A lone member elects itself after its election timeout: a second of every start, unless it is shorter.
        quick = ["--heartbeat-interval", "20", "--election-timeout", "200"] if members == 1 else []
        self.flags = [*quick, *flags]
        if tls is not None:
            self.flags += ["--cert-file", str(tls["cert"]), "--key-file", str(tls["key"])]
            self.flags += ["--client-cert-auth", "--trusted-ca-file", str(tls["ca"])]
        self.members = [Member(self, f"m{number}") for number in range(members)]

    @property
    def member(self) -> Member:
        """The only (or first) member."""
        return self.members[0]

    def options(self, prefix: str = "/bascule", **more: Any) -> EtcdOptions:
        """Return options for a store on all members."""
        if self.tls is not None:
            more = {
                "ca_file": str(self.tls["ca"]),
                "cert_file": str(self.tls["cert"]),
                "key_file": str(self.tls["key"]),
            } | more
        endpoints = tuple(member.endpoint for member in self.members)
        # Long, so that a busy machine is no failure; who waits for a failure asks for less.
        values: dict[str, Any] = {"endpoints": endpoints, "prefix": prefix, "timeout_ms": 20_000} | more
        return EtcdOptions(**values)

    def start(self) -> "Etcd":
        """Start all members and wait until they answer."""
        for member in self.members:
            member.start()
        try:
            self.wait()
        except BaseException:
            self.kill()
            raise
        return self

    def wait(self, user: str = "") -> None:
        """Wait until every running member has a leader and answers."""
        for member in self.members:
            if member.process is not None:
                healthy = functools.partial(self._healthy, member, user)
                until(healthy, f"etcd {member.name} answers: {self.log_text()}", START_S, 0.05)

    def _healthy(self, member: Member, user: str) -> bool:
        assert member.process is not None
        if member.process.poll() is not None:
            raise AssertionError(f"etcd ended with {member.process.returncode}: {self.log_text()}")
        arguments = ["--user", user] if user else []
        done = self.run("get", "health", *arguments, endpoint=member.endpoint, check=False)
        return done.returncode == 0 or "user name is empty" in done.stderr

    def run(self, *arguments: str, endpoint: str = "", check: bool = True, stdin: bytes | None = None) -> Any:
        """Run etcdctl and return the finished process (texts)."""
        endpoint = endpoint or next(member.endpoint for member in self.members if member.process is not None)
        command = ["etcdctl", "--endpoints", endpoint, "--dial-timeout", "2s", "--command-timeout", "5s"]
        if self.tls is not None:
            command += ["--cacert", str(self.tls["ca"]), "--cert", str(self.tls["cert"]), "--key", str(self.tls["key"])]
        done = subprocess.run(
            [*command, *arguments],
            input=stdin,
            capture_output=True,
            env=os.environ | {"ETCDCTL_API": "3"},
            timeout=30,
            check=False,
        )
        result = subprocess.CompletedProcess(
            done.args, done.returncode, done.stdout.decode(errors="replace"), done.stderr.decode(errors="replace")
        )
        if check and result.returncode:
            raise AssertionError(f"etcdctl {' '.join(arguments)}: {result.stderr}")
        return result

    def put(self, key: str, value: str, lease: int = 0) -> None:
        """Put a key as an operator would, with etcdctl."""
        self.run("put", key, value, *(["--lease", f"{lease:x}"] if lease else []))

    def delete(self, *arguments: str) -> None:
        """Delete keys with etcdctl."""
        self.run("del", *arguments)

    def transact(self, puts: Mapping[str, str], removes: Sequence[str] = ()) -> None:
        """Put and delete keys in one transaction with etcdctl."""
        lines = [f"put {key} {json.dumps(value)}" for key, value in puts.items()] + [f"del {key}" for key in removes]
        self.run("txn", stdin=("\n" + "\n".join(lines) + "\n\n\n").encode())

    def grant(self, ttl_s: int) -> int:
        """Grant a lease with etcdctl."""
        return int(self.run("lease", "grant", str(ttl_s)).stdout.split()[1], 16)

    def revision(self) -> int:
        """Return the present revision."""
        return int(self.json("get", "nothing")["header"]["revision"])

    def json(self, *arguments: str) -> Any:
        """Run etcdctl and return its JSON."""
        return json.loads(self.run(*arguments, "-w", "json").stdout)

    def keys(self, prefix: str) -> list[str]:
        """Return the keys below a prefix."""
        found = self.json("get", "--prefix", "--keys-only", prefix).get("kvs", [])
        return [base64.b64decode(kv["key"]).decode() for kv in found]

    def compact(self, revision: int = 0) -> int:
        """Compact up to a revision (the present one) and return it."""
        revision = revision or self.revision()
        self.run("compaction", "--physical", str(revision))
        return revision

    def metrics(self) -> dict[str, float]:
        """Return the first member's own counters (without labels' braces taken apart)."""
        import urllib.request

        assert self.tls is None
        with urllib.request.urlopen(f"{self.member.endpoint}/metrics", timeout=10) as answer:
            lines = answer.read().decode().splitlines()
        pairs = (line.rsplit(" ", 1) for line in lines if line and not line.startswith("#"))
        return {name: float(value) for name, value in pairs}

    def snapshot(self) -> Path:
        """Save a backup."""
        path = self.directory / f"backup-{len(list(self.directory.glob('backup-*')))}"
        self.run("snapshot", "save", str(path))
        return path

    def restore(self, backup: Path, *, token: str = "etcd-cluster") -> None:
        """Stop the only member, put a backup in its place, and start it. Another token makes it another cluster."""
        member = self.member
        member.kill()
        shutil.rmtree(member.data)
        command = ["etcdctl", "snapshot", "restore", str(backup), "--name", member.name, "--data-dir", str(member.data)]
        command += ["--initial-cluster", f"{member.name}={member.peer}", "--initial-advertise-peer-urls", member.peer]
        command += ["--initial-cluster-token", token]
        subprocess.run(command, check=True, capture_output=True, env=os.environ | {"ETCDCTL_API": "3"}, timeout=30)
        member.start()
        self.wait()

    def wipe(self) -> None:
        """Replace the only member by an empty one at the same address."""
        self.member.kill()
        shutil.rmtree(self.member.data)
        self.member.start()
        self.wait()

    def enable_users(self, password: str = "secret", ttl_s: int = 0) -> None:
        """Create root and the user `bascule`, who may do everything below /bascule, and ask everybody for a password."""
        self.run("user", "add", f"root:{password}")
        self.run("user", "grant-role", "root", "root")
        self.run("role", "add", "bascule")
        self.run("role", "grant-permission", "--prefix=true", "bascule", "readwrite", "/bascule/")
        self.run("role", "grant-permission", "--prefix=true", "bascule", "readwrite", "/bascule.history/")
        self.run("user", "add", f"bascule:{password}")
        self.run("user", "grant-role", "bascule", "bascule")
        self.run("auth", "enable")

    def log_text(self) -> str:
        """Return the end of the members' logs."""
        return "\n".join(
            member.log.read_text(errors="replace")[-2000:] for member in self.members if member.log.exists()
        )

    def kill(self) -> None:
        """End all members and remove the directory."""
        for member in self.members:
            member.kill()
        shutil.rmtree(self.directory, ignore_errors=True)

    def __enter__(self) -> "Etcd":
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.kill()


def make_certificates(
    directory: Path, names_of_it: str = "IP:127.0.0.1,DNS:localhost", days: int = 2
) -> dict[str, Path]:
    """Make a CA and one certificate for 127.0.0.1 and localhost that serves as server's and client's. Negative `days`: it has
    ended."""
    names = {name: directory / f"{name}.pem" for name in ("ca", "ca-key", "cert", "key")}

    def openssl(*arguments: str) -> None:
        subprocess.run(["openssl", *arguments], check=True, capture_output=True, timeout=60)

    elliptic = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-x509", "-days", "2"]
    openssl("req", *elliptic, "-subj", "/CN=test-ca", "-keyout", str(names["ca-key"]), "-out", str(names["ca"]))
    issued = ["-CA", str(names["ca"]), "-CAkey", str(names["ca-key"])]
    alternatives = f"subjectAltName={names_of_it}"
    usage = "extendedKeyUsage=serverAuth,clientAuth"
    request = directory / "request.pem"
    key = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-keyout", str(names["key"])]
    openssl("req", *key, "-subj", "/CN=bascule", "-out", str(request))
    extensions = directory / "extensions"
    extensions.write_text(f"{alternatives}\n{usage}\n")
    more = ["-CAcreateserial", "-days", str(days), "-extfile", str(extensions), "-out", str(names["cert"])]
    openssl("x509", "-req", "-in", str(request), *issued, *more)
    return names


@contextlib.contextmanager
def etcd(members: int = 1, flags: Sequence[str] = ()) -> Iterator[Etcd]:
    """Run a cluster for as long as the context."""
    with Etcd(members, flags) as cluster:
        yield cluster
