"""`bascule demo`: hands its arguments to bascule.demo."""

import click


@click.command(context_settings={"ignore_unknown_options": True, "allow_extra_args": True, "help_option_names": []})
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
def demo(arguments: tuple[str, ...]) -> int:
    """Start two example origins, the balancer, traffic and a live change, and print what happens."""
    from bascule.demo.__main__ import main

    return main(list(arguments))
