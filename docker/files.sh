#!/bin/sh
# Collects in a folder all that an image has beside the binary, which is already there. Runs in the base image.
set -eu
image=$1
binary=$image/usr/local/bin/vonk

# Executors, drivers and people call the one binary by these names.
ln -s vonk "$image/usr/local/bin/vonk-executor"
ln -s vonk "$image/usr/local/bin/vonk-driver"

authorities=/etc/ssl/certs/ca-certificates.crt
[ -f "$authorities" ] || { export DEBIAN_FRONTEND=noninteractive; apt-get update -qq && apt-get install -y -qq --no-install-recommends ca-certificates; }
mkdir -p "$image${authorities%/*}"
cp -L "$authorities" "$image$authorities"

# The loader and the C library, with what else a program written in Rust links, and C++ for the libraries of others.
listed=$(ldd "$binary")
case $listed in *"not found"*) echo "the base image lacks what the binary links: $listed" >&2; exit 1;; esac
libraries=$(echo "$listed" | sed -n 's#^\(.* => \)\{0,1\}[[:space:]]*\(/[^ ]*\) (.*#\2#p')
folder=$(dirname "$(echo "$libraries" | grep '/libc\.so\.6$')")
for name in libgcc_s.so.1 libm.so.6 libpthread.so.0 libdl.so.2 librt.so.1 libresolv.so.2 libnss_dns.so.2 libnss_files.so.2 \
  libstdc++.so.6; do
  for library in "$folder/$name" "/usr$folder/$name"; do
    if [ -f "$library" ]; then libraries="$libraries $folder/$name"; break; fi
  done
done
for library in $libraries; do
  found=$library
  [ -f "$found" ] || found=/usr$library
  mkdir -p "$image${library%/*}"
  cp -Lf "$found" "$image$library"
done

printf 'root:x:0:0:root:/:/\nnonroot:x:65532:65532:nonroot:/tmp:/\n' > "$image/etc/passwd"
printf 'root:x:0:\nnonroot:x:65532:\n' > "$image/etc/group"
printf 'passwd: files\ngroup: files\nhosts: files dns\n' > "$image/etc/nsswitch.conf"
# Where pods mount what they may write to.
mkdir -p "$image/tmp" "$image/vonk"
chmod 1777 "$image/tmp"
