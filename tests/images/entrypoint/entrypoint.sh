#!/bin/sh
echo "entrypoint was here"
exec "$@"
