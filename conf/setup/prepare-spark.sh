#!/usr/bin/env bash
# Makes pip's Spark in a virtual environment ready: its settings, and Delta's two jars without what they depend on (Spark brings its
# own, newer).
set -eu
venv=$1 delta_spark=$2 version=$3
spark_home=$("$venv/bin/python" -c 'import importlib.util as u; print(u.find_spec("pyspark").submodule_search_locations[0])')
mkdir -p "$spark_home/conf"
cp conf/spark/spark-defaults.conf conf/spark/log4j2.properties conf/spark/spark-env.sh "$spark_home/conf/"
jars="$spark_home/jars"
for artifact in "$delta_spark" delta-storage; do
  file="$jars/$artifact-$version.jar"
  [ -s "$file" ] && continue
  log=$(mktemp)
  if ! "${JAVA_HOME:+$JAVA_HOME/bin/}java" -Divy.default.ivy.user.dir="$spark_home/../ivy" -cp "$jars/*" org.apache.ivy.Main \
      -settings conf/spark/ivysettings.xml -dependency io.delta "$artifact" "$version" -notransitive -types jar \
      -retrieve "$jars/[artifact]-[revision].[ext]" >"$log" 2>&1 || [ ! -s "$file" ]; then
    echo "error: could not fetch io.delta:$artifact:$version from Maven Central; check the network, or copy the jar to $jars yourself. Ivy's last lines:" >&2
    tail -n 5 "$log" >&2
    exit 1
  fi
done
