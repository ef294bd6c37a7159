"""`bascule demo`: the show of bascule.demo."""

import click


@click.command()
@click.option("--seconds", default=20.0, show_default=True, help="How long it lasts.")
@click.option("--workers", default=2, show_default=True, help="Worker processes of the balancer.")
@click.option(
    "--store",
    type=click.Choice(["auto", "embedded", "etcd"]),
    default="auto",
    show_default=True,
    help="Where the configuration lives; auto: a private etcd where etcd is installed.",
)
@click.option("--keep", is_flag=True, help="Keep everything running at the end, until Ctrl-C.")
@click.option("--json", "as_json", is_flag=True, help="Print what happens as JSON, one object a line.")
def demo(seconds: float, workers: int, store: str, keep: bool, as_json: bool) -> int:
    """Start two example origins, a store, the balancer and traffic; change it live, and print how long each change took.

    An origin is added with `etcdctl put` (without etcd: `bascule set`), another one drained, stopped and removed with
    `bascule apply`. Then the balancer is upgraded under the same traffic, with a WebSocket over it, and switched back.
    Exit status 0 only when no request failed.

    \b
    bascule demo
    bascule demo --keep
    """
    from bascule.demo.run import demo as show

    return show(seconds=seconds, workers=workers, store=store, keep=keep, json_output=as_json)
