"""How a command ends early: a user's mistake or an interruption is one line and an exit status."""

from __future__ import annotations

from typing import Any

import click

from kebench.errors import KebenchError, did_you_mean


class Terminated(KeyboardInterrupt):
    """The process received SIGTERM, as a cluster sends when a job's time is over."""


class OneLineErrors(click.Group):
    """Prints an error as one line, and exits.

    The status is 2 after a user's mistake, 130 after Ctrl-C and 143 after SIGTERM (128 + the signal's number,
    as shells have it).
    """

    def invoke(self, ctx: click.Context) -> Any:
        """Runs the command."""
        try:
            return super().invoke(ctx)
        except KebenchError as error:
            click.echo(f"kebench: {one_line(str(error))}", err=True)
            ctx.exit(2)
        except OSError as error:  # no permission, a full disk, a name that is too long
            if error.strerror is None:
                raise
            place = f"{one_line(str(error.filename))}: " if error.filename is not None else ""
            click.echo(f"kebench: {place}{error.strerror}", err=True)
            ctx.exit(2)
        except KeyboardInterrupt as stop:
            ended, status = ("terminated", 143) if isinstance(stop, Terminated) else ("interrupted", 130)
            click.echo(f"kebench: {ended}; the same command continues from here", err=True)
            ctx.exit(status)

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Adds the most similar command to the error about an unknown one."""
        if args and not args[0].startswith("-") and self.get_command(ctx, args[0]) is None:
            commands = self.list_commands(ctx)
            raise KebenchError(f"no command named '{args[0]}'{did_you_mean(args[0], commands)}")
        return super().resolve_command(ctx, args)


def one_line(text: str) -> str:
    """Returns the text without line breaks, with characters that could move a terminal's cursor escaped."""
    plain = " ".join(text.split())
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in plain)
