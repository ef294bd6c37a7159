"""`bascule`: the group of all commands. A command's module is imported when it is used, so that each starts fast."""

import importlib
from collections.abc import Sequence

import click

from bascule import __version__
from bascule.cli.output import OK, USAGE, Failure, print_json

COMMANDS = {
    "run": ("bascule.cli.keeper:run", "Run the load balancer."),
    "proxy": ("bascule.cli.keeper:proxy", "Run a proxy without a configuration."),
    "demo": ("bascule.cli.demo:demo", "Show it: two origins, traffic, and live changes without a failed request."),
    "status": ("bascule.cli.control:status", "Show what a running load balancer does."),
    "top": ("bascule.cli.top:top", "Show rates of a running load balancer, refreshed."),
    "watch": ("bascule.cli.watch:watch", "Show events as they happen."),
    "get": ("bascule.cli.objects:get", "Show objects, or the whole tree."),
    "objects": ("bascule.cli.states:objects", "Show what waits, is quarantined or held, and why."),
    "set": ("bascule.cli.objects:set_object", "Set fields of an object, or create it."),
    "rm": ("bascule.cli.objects:rm", "Remove objects."),
    "apply": ("bascule.cli.apply:apply", "Bring what files say into force, in one transaction."),
    "diff": ("bascule.cli.apply:diff", "Show what a file would change, or what differs between two."),
    "check": ("bascule.cli.check:check", "Find everything that is wrong with a configuration file."),
    "explain": ("bascule.cli.explain:explain", "Show which route a request takes, and why."),
    "import": ("bascule.cli.import_vulcand:import_group", "Convert the configuration of another load balancer."),
    "history": ("bascule.cli.history:history", "Show what was changed, when, by whom and why."),
    "rollback": ("bascule.cli.history:rollback", "Restore an earlier state by a new transaction."),
    "drain": ("bascule.cli.operate:drain", "Let a server finish what it has and get nothing new."),
    "undrain": ("bascule.cli.operate:undrain", "Give a server traffic again."),
    "freeze": ("bascule.cli.operate:freeze", "Keep every change out of force."),
    "unfreeze": ("bascule.cli.operate:unfreeze", "Bring into force what the store says now."),
    "adopt": ("bascule.cli.operate:adopt", "Accept what the gates hold back."),
    "token": ("bascule.cli.token:token", "Make, list and remove bearer tokens for the admin API on TCP."),
    "upgrade": ("bascule.cli.upgrade:upgrade", "Replace the running program by the version on disk, or switch back."),
    "reload": ("bascule.cli.control:reload", "Make a running load balancer read its configuration again."),
    "stop": ("bascule.cli.control:stop", "Stop a running load balancer, letting exchanges end first."),
    "completion": ("bascule.cli.completion:completion", "Print what makes a shell complete commands and keys."),
}


class Commands(click.Group):
    """The commands by name, imported on demand."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the names in the order of the table."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import and return a command."""
        if cmd_name not in COMMANDS:
            return None
        module, _, attribute = COMMANDS[cmd_name][0].partition(":")
        command = getattr(importlib.import_module(module), attribute)
        return command if isinstance(command, click.Command) else None

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the list of commands without importing any."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, summary) for name, (_, summary) in COMMANDS.items()])


@click.group(
    cls=Commands,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110},
    epilog="Exit status: 0 success, 1 failure, 2 a command line that makes no sense.",
)
@click.version_option(__version__, prog_name="bascule")
def bascule() -> None:
    """Bascule: an edge load balancer whose every change happens with zero downtime.

    \b
    Try it:   bascule proxy --listen 127.0.0.1:8080 --to 127.0.0.1:9001 --to 127.0.0.1:9002
    Use it:   bascule check bascule.toml && bascule run -c bascule.toml
    """


def main(argv: Sequence[str]) -> int:
    """Run a command line and return its exit status. With --json a failure is a JSON object on standard output too."""
    try:
        result = bascule.main(args=list(argv), prog_name="bascule", standalone_mode=False)
    except click.exceptions.NoArgsIsHelpError as error:
        error.show()
        return USAGE
    except click.ClickException as error:
        error.show()
        if isinstance(error, Failure) and "--json" in argv:
            print_json(error.as_json())
        return error.exit_code
    except (click.Abort, KeyboardInterrupt):
        return 130
    except BrokenPipeError:
        return OK
    return result if isinstance(result, int) else OK
