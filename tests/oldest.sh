#!/usr/bin/env bash
# The fast tests with the oldest version that pyproject.toml allows of each direct dependency.
#
#   tests/oldest.sh [FOLDER] [PYTEST ARGUMENTS]
#
# FOLDER holds the virtual environment and is used again if it is there; the default is a temporary one. torch is the
# newest allowed, since old builds for Linux bring gigabytes of CUDA libraries; OLDEST_TORCH=1 takes the oldest as well.
# PYTHON names the interpreter, python3 unless set.
set -euo pipefail
cd "$(dirname "$0")/.."
folder=${1:-$(mktemp -d)}
mkdir -p "$folder"
"${PYTHON:-python3}" - > "$folder/oldest.txt" << 'END'
import os, re, tomllib

with open("pyproject.toml", "rb") as file:
    project = tomllib.load(file)["project"]
for dependency in project["dependencies"]:
    name, oldest = re.match(r"([\w.-]+)>=([\w.]+)", dependency).groups()
    if name != "torch" or os.environ.get("OLDEST_TORCH"):
        print(f"{name}=={oldest}")
END
[ -x "$folder/venv/bin/python" ] || "${PYTHON:-python3}" -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet --constraint "$folder/oldest.txt" --editable '.[dev,lab]'
PATH="$folder/venv/bin:$PATH" PYTHONPATH=$PWD "$folder/venv/bin/python" -m pytest -m "not slow" "${@:2}"
