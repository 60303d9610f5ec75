"""Probe of a bundle in a subprocess, which measures its memory apart from traffic and survives its crashes.

`python -m server.registry.probe FOLDER` reads the settings from standard input and prints a JSON object; `probe_bundle`
runs it.
"""

import ctypes
import json
import os
import resource
import signal
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

from server.contract.manifest import BundleError
from server.memory.process_resources import available_memory, end_first
from server.registry.model_registry import open_bundle
from server.registry.warmup import Peaks, warm_up
from server.settings import Settings

_SETTINGS = {"allow_uncertified", "threads", "device", "gpu_memory_bytes"}
_ROOT = Path(__file__).parents[2]
_PR_SET_PDEATHSIG = 1  # of linux/prctl.h
# Memory of the process beside the bundle: the interpreter, the runtime, and stacks of threads, which count whole.
_OVERHEAD_BYTES = 2**29


def probe_bundle(
    folder: Path,
    settings: Settings,
    *,
    memory_bytes: int | None = None,
    running: "list[subprocess.Popen[str]] | None" = None,
) -> Peaks | None:
    """Open the bundle in `folder`, run its canary and its largest shapes; its peak memory, where it can be measured.

    memory_bytes: the most that the subprocess may take, where the machine has that much left. running: gets the
    subprocess, for callers that may have to kill it. BundleError where the bundle fails, ends the subprocess, or takes
    longer than `trial_timeout_s`.
    """
    paths = [str(_ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
    given = settings.model_dump(mode="json", include=_SETTINGS)
    given["memory_bytes"] = min((size for size in (memory_bytes, available_memory()) if size is not None), default=None)
    given["parent"] = os.getpid()
    trial = subprocess.Popen(
        [sys.executable, "-m", "server.registry.probe", str(folder)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(paths)},
        text=True,
    )
    if running is not None:
        running.append(trial)
    try:
        output, _ = trial.communicate(json.dumps(given), timeout=settings.trial_timeout_s)
    except subprocess.TimeoutExpired:
        raise BundleError(
            f"{folder} was tried for trial_timeout_s={settings.trial_timeout_s} and did not finish: it is not served"
        ) from None
    finally:
        trial.kill()
        trial.wait()
    if trial.returncode or not output:
        raise BundleError(f"{folder} ended the process that tried it (status {trial.returncode}): it is not served")
    result: dict[str, Any] = json.loads(output.splitlines()[-1])
    if fault := result.get("fault"):
        raise BundleError(fault)
    return Peaks(**result["peaks"]) if result["peaks"] else None


def confine(memory_bytes: int | None, parent: int) -> None:
    """Bound the memory of this process, let the system end it before others, and with the process that started it."""
    if sys.platform != "linux":
        return
    libc = ctypes.CDLL(None, use_errno=True)
    libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:  # it has ended before
        os._exit(1)
    end_first()
    if memory_bytes is not None:
        _, hard = resource.getrlimit(resource.RLIMIT_DATA)
        limit = max(0, memory_bytes) + _OVERHEAD_BYTES
        resource.setrlimit(resource.RLIMIT_DATA, (limit if hard == resource.RLIM_INFINITY else min(limit, hard), hard))


def main(folder: Path, settings: Settings) -> dict[str, Any]:
    """The probe's result: `peaks`, or a `fault`."""
    try:
        bundle = open_bundle(folder, settings)
        bundle.check_canary()
        peaks = warm_up(bundle)
    except BundleError as error:
        return {"fault": str(error)}
    except MemoryError:
        return {"fault": f"{folder} takes more memory than there is for it"}
    except Exception as error:  # runtimes raise their own classes, derived from Exception alone
        return {"fault": f"{folder} cannot be run: {error}"}
    return {"peaks": asdict(peaks) if peaks else None}


if __name__ == "__main__":
    given = json.load(sys.stdin)
    confine(given.pop("memory_bytes"), given.pop("parent"))
    print(json.dumps(main(Path(sys.argv[1]), Settings(**given))))
