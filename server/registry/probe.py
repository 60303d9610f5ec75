"""Probe of a bundle in a subprocess, which measures its memory apart from traffic and survives its crashes.

`python -m server.registry.probe FOLDER` reads the settings from standard input and prints a JSON object; `probe_bundle`
runs it.
"""

import json
import os
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

from server.contract.manifest import BundleError
from server.registry.model_registry import open_bundle
from server.registry.warmup import Peaks, warm_up
from server.settings import Settings

_SETTINGS = {"allow_uncertified", "threads", "device", "gpu_memory_bytes"}
_ROOT = Path(__file__).parents[2]


def probe_bundle(folder: Path, settings: Settings) -> Peaks | None:
    """Open the bundle in `folder`, run its canary and its largest shapes; its peak memory, where it can be measured.

    BundleError where it fails, or ends the subprocess.
    """
    paths = [str(_ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
    done = subprocess.run(
        [sys.executable, "-m", "server.registry.probe", str(folder)],
        input=json.dumps(settings.model_dump(mode="json", include=_SETTINGS)),
        stdout=subprocess.PIPE,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(paths)},
        text=True,
    )
    if done.returncode or not done.stdout:
        raise BundleError(f"{folder} ended the process that tried it (status {done.returncode}): it is not served")
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    if fault := result.get("fault"):
        raise BundleError(fault)
    return Peaks(**result["peaks"]) if result["peaks"] else None


def main(folder: Path, settings: Settings) -> dict[str, Any]:
    """The probe's result: `peaks`, or a `fault`."""
    try:
        bundle = open_bundle(folder, settings)
        bundle.check_canary()
        peaks = warm_up(bundle)
    except BundleError as error:
        return {"fault": str(error)}
    except Exception as error:  # runtimes raise their own classes, derived from Exception alone
        return {"fault": f"{folder} cannot be run: {error}"}
    return {"peaks": asdict(peaks) if peaks else None}


if __name__ == "__main__":
    print(json.dumps(main(Path(sys.argv[1]), Settings(**json.load(sys.stdin)))))
