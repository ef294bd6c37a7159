"""`bascule completion`: the shell's part of completing commands, options and keys."""

import click
from click.shell_completion import get_completion_class

from bascule.cli.output import OK, Failure

_VARIABLE = "_BASCULE_COMPLETE"


@click.command()
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
def completion(shell: str) -> int:
    """Print what makes SHELL complete commands, options, and the keys of a running load balancer.

    \b
    eval "$(bascule completion bash)"                                        # in ~/.bashrc
    eval "$(bascule completion zsh)"                                         # in ~/.zshrc
    bascule completion fish > ~/.config/fish/completions/bascule.fish
    """
    from bascule.cli.main import bascule

    kind = get_completion_class(shell)
    if kind is None:
        raise Failure(f"there is no completion for {shell}", "use bash, zsh or fish")
    try:
        click.echo(kind(bascule, {}, "bascule", _VARIABLE).source())
    except RuntimeError as error:
        raise Failure(str(error), "install a newer bash (4.4), or use zsh or fish") from None
    return OK
