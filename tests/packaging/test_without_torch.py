"""`import thrifty.numpy` and its ops work in an environment where torch is not installed."""

import subprocess
import sys
import sysconfig
from pathlib import Path

SMOKE = Path(__file__).parents[2] / ".ci" / "smoke_numpy.py"


def test_numpy_face_in_an_environment_without_torch(tmp_path, package_dir):
    import thrifty

    environment = tmp_path / "venv"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", environment], check=True)
    python = environment / "bin" / "python"
    ask = [python, "-c", "import sysconfig; print(sysconfig.get_path('platlib'))"]
    packages = Path(subprocess.run(ask, capture_output=True, text=True, check=True).stdout.strip())

    for numpy in Path(sysconfig.get_path("platlib")).glob("numpy*"):
        (packages / numpy.name).symlink_to(numpy)
    (packages / "thrifty").mkdir()
    for folder in {Path(thrifty.__file__).parent, package_dir}:
        for file in folder.iterdir():
            (packages / "thrifty" / file.name).symlink_to(file)

    run = subprocess.run([python, SMOKE], cwd=tmp_path, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    assert "thrifty.numpy without torch: agrees with NumPy" in run.stdout
