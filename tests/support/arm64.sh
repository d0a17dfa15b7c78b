#!/usr/bin/env bash
# Classify a real picture on arm64, emulated: tests/support/arm64.sh BUNDLE PICTURE [FOLDER]
#
# The base wheel is pure Python; this shows that attri-run says on a Debian of arm64 what it says here, with ONNX
# Runtime's own wheel for arm64 (1.23.2: the cpuinfo of 1.32 does not survive qemu 7.2 reading the host's /sys). FOLDER, a
# temporary one by default, keeps the system between runs. Needs qemu-user-static and mmdebstrap, and a .venv with attri
# and pip; about 500 MB. binfmt_misc is not needed: nothing of the system is run but its Python.
set -euo pipefail
bundle=$(realpath "$1") picture=$(realpath "$2") folder=$(realpath -m "${3:-$(mktemp -d)}")
cd "$(dirname "$0")/.."
root=$folder/root packages=$folder/packages
if [ ! -e "$root/usr/bin/python3" ]; then
    mkdir -p "$folder"
    mmdebstrap --variant=extract --architectures=arm64 \
        --include=python3,python3-minimal,libstdc++6,libgomp1,zlib1g,libssl3,libffi8,libexpat1 bookworm "$root"
fi
.venv/bin/pip wheel --quiet --no-deps --wheel-dir "$folder" .
rm -rf build ./*.egg-info
.venv/bin/pip install --quiet --upgrade --target "$packages" --only-binary :all: --implementation cp \
    --python-version 3.11 --platform manylinux_2_28_aarch64 --platform manylinux_2_17_aarch64 \
    --platform manylinux2014_aarch64 "$(ls "$folder"/attri-*.whl)[onnx]" onnxruntime==1.23.2
emulated() { PYTHONPATH=$packages OMP_NUM_THREADS=1 qemu-aarch64-static -L "$root" "$root/usr/bin/python3" "$@"; }
classify=(-m attri.runtime.cli.run "$picture" --bundle "$bundle" --backend onnxruntime --device cpu --threads 1)
emulated -c 'import platform; print("emulated on", platform.machine())'
there=$(emulated "${classify[@]}")
here=$(.venv/bin/python "${classify[@]}")
echo "there  $there"
echo "here   $here"
test "$there" = "$here"
