"""Runner of a typer application with the exit codes of this project.

===== =======================================================================
code  meaning
===== =======================================================================
0     yes: done, healthy, passed
1     no: refused, not healthy, not passed
2     cannot tell: wrong arguments, or what had to be asked cannot be reached
===== =======================================================================
"""

import sys
from collections.abc import Sequence

import typer
from bem.errors import GateFormatError
from fleet.access.keys import KeysFileError
from fleet.errors import InvalidArgumentError, NotFoundError, UnavailableError
from typer.exceptions import TyperException

from bem_fleet.cli.local.checks import NotReadyToStartError
from bem_fleet.descriptors import DescriptorError

YES, NO, CANNOT_TELL = 0, 1, 2


def run_application(app: typer.Typer, name: str, arguments: Sequence[str] | None) -> int:
    """Run one command and return its exit code.

    Args:
        app: The application; its commands return exit codes.
        name: Name of the program in messages.
        arguments: Arguments without the program's name; None takes those of the process.
    """
    words = list(sys.argv[1:] if arguments is None else arguments)
    try:
        code = typer.main.get_command(app).main(words, prog_name=name, standalone_mode=False)
    except TyperException as err:
        print(f"{name}: {getattr(err, 'message', None) or err}", file=sys.stderr)
        return CANNOT_TELL
    except (NotReadyToStartError, NotFoundError, KeysFileError) as err:
        print(f"{name}: {err}", file=sys.stderr)
        return NO
    except (GateFormatError, InvalidArgumentError, UnavailableError, DescriptorError) as err:
        print(f"{name}: {err}", file=sys.stderr)
        return CANNOT_TELL
    return int(code or YES)
