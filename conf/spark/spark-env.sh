# Sourced by spark-submit before it looks for Java. Without this a missing Java ends in "JAVA_HOME is not set", and nothing more.
if ! command -v "${JAVA_HOME:+$JAVA_HOME/bin/}java" >/dev/null; then
  echo "error: '${JAVA_HOME:+$JAVA_HOME/bin/}java' was not found, Spark needs Java 17 or newer; install it (Debian: sudo apt-get install openjdk-17-jre-headless), or let JAVA_HOME name its folder" >&2
  exit 2
fi
