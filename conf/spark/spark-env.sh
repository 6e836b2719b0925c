# Sourced by spark-submit before it looks for Java. Without this a missing Java ends in "JAVA_HOME is not set", and nothing more.
if ! command -v "${JAVA_HOME:+$JAVA_HOME/bin/}java" >/dev/null; then
  echo "error: no Java was found ($([ -n "$JAVA_HOME" ] && echo "JAVA_HOME is $JAVA_HOME" || echo "PATH has none, JAVA_HOME is not set")), expected Java 17 or newer; install it (Debian: sudo apt-get install openjdk-17-jre-headless)" >&2
  exit 2
fi
