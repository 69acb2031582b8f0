#!/bin/sh
# Builds the Dockerfile with buildah, where no registry can be reached: under the name of its base stands Debian 13 with
# its own Python 3.13, moved to where the official image has it. $1 is a folder to work in, which must be empty; the
# image's root ends up in $1/image, its configuration in $1/config.json. As root.
set -eu
here=$PWD
cd "$1"
buildah="buildah --storage-driver vfs --root $1/store --runroot $1/run"

mmdebstrap --quiet --variant=minbase --include=ca-certificates,python3,python3-venv trixie base
cd base
rm -r usr/local/lib/python3.13
mv usr/lib/python3.13 usr/local/lib
mv usr/bin/python3.13 usr/local/bin
ln -s python3.13 usr/local/bin/python
rm usr/local/lib/python3.13/EXTERNALLY-MANAGED
chroot . sh -c 'python "$(echo /usr/share/python-wheels/pip-*.whl)/pip" install --quiet --root-user-action=ignore \
    --no-warn-script-location --no-index --find-links /usr/share/python-wheels pip'
cd ..
printf 'FROM scratch\nADD base /\nENV PATH=/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin\n' >Base
$buildah bud --quiet --isolation chroot --file Base --tag docker.io/library/python:3.13-slim .

# This machine's authorities, as its way to the package index may have one of its own.
authorities=/etc/ssl/certs/ca-certificates.crt
$buildah bud --quiet --isolation chroot --pull-never --format docker --network host \
    --volume "$authorities:$authorities:ro" --file "$here/Dockerfile" --tag todo-backend "$here"
$buildah inspect --type image todo-backend >config.json
ln -s "$($buildah mount "$($buildah from --pull-never todo-backend)")" image
