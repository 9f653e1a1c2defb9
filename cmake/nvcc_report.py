"""Compiler launcher of the CUDA kernels: keeps ptxas's report of each kernel beside the object
file.

`ptxas -v` prints registers, shared memory and spills of every kernel among the compiler's messages.
Here they go to `<object>.ptxas.txt`, where .ci/cuda_resources.py reads them; the terminal sees only
what is left, warnings and errors."""

import subprocess
import sys


def is_report(line: str) -> bool:
    return line.startswith("ptxas info") or (
        line.startswith("    ") and "bytes stack frame" in line
    )


def main(command: list[str]) -> int:
    run = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    if "-c" in command and "-o" in command:
        with open(command[command.index("-o") + 1] + ".ptxas.txt", "w") as report:
            report.write(run.stdout)
    sys.stderr.writelines(line for line in run.stdout.splitlines(True) if not is_report(line))
    return run.returncode


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
