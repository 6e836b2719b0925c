#!/usr/bin/env bash
# Python 3.11+ and Java 17+, or one clear line. Java is installed by the system's package manager when that is allowed.
set -eu
python=$1
if ! "$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
  echo "error: Python 3.11 or newer is needed, '$python' is $("$python" --version 2>&1 || echo missing); run: make PYTHON=/path/to/python3.11 ..." >&2
  exit 1
fi
java=${JAVA_HOME:+$JAVA_HOME/bin/}java # as spark-submit chooses it
java_major=$("$java" -version 2>&1 | sed -n 's/.*version "\([0-9]*\).*/\1/p' | head -n 1)
if [ "${java_major:-0}" -lt 17 ]; then
  if [ -z "${JAVA_HOME:-}" ] && [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
    echo "Java 17+ not found: installing openjdk-17-jre-headless ..."
    apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq openjdk-17-jre-headless >/dev/null
  else
    echo "error: Java 17 or newer is needed, '$java' is ${java_major:-missing}; install it (Debian: sudo apt-get install openjdk-17-jre-headless)${JAVA_HOME:+, let JAVA_HOME name it or unset it}, then run make again" >&2
    exit 1
  fi
fi
