"""How does a child process end when this one does?"""

import shutil
import subprocess
from signal import Signals


def ending_with_us(number: Signals) -> list[str]:
    """Return what to put in front of a command, so that Linux sends this signal when we end, even by kill -9.

    Nothing on other systems. The signal is also sent when the thread ends that has started the child.
    """
    setpriv = shutil.which("setpriv")
    if not setpriv:
        return []
    prefix = [setpriv, "--pdeathsig", number.name.removeprefix("SIG")]
    done = subprocess.run([*prefix, "true"], capture_output=True, check=False)  # noqa: S603
    return [] if done.returncode else prefix  # util-linux before 2.33 does not have the option


def stop(process: subprocess.Popen[bytes], polite: Signals, firm: Signals, seconds: float) -> None:
    """End it with the polite signal, or after these seconds with the firm one."""
    process.send_signal(polite)
    try:
        process.wait(seconds)
    except subprocess.TimeoutExpired:
        process.send_signal(firm)
        process.wait()
