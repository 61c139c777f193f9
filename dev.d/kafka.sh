# shellcheck shell=bash
# Kafka in one directory, one to three brokers (each also a controller), without ZooKeeper:
#   DIR/node-N/{server.properties,data,log,pid}   DIR/bootstrap   DIR/cluster-id
# With users there is also a secured listener: kafka-secure.sh.
# Start-up is what costs, so: formatted by copying what Kafka's own formatter wrote once, and with an
# archive of loaded classes (the JVM's class data sharing), which saves a third.

KAFKA_USERS=() # name:password of the secured listener's users; none: there is no such listener

kafka_classpath() {
  # The order must be the same every time: the class archive is bound to it.
  local -a jars=("$(kafka_libs)"/*.jar)
  local IFS=:
  printf '%s\n' "${jars[*]}"
}

# Flags for a JVM that starts fast and stays small.
kafka_jvm_flags() {
  local archive=$1
  JVM_FLAGS=(-XX:TieredStopAtLevel=1 -XX:+UseSerialGC -XX:-UsePerfData -Djava.awt.headless=true
    -Dlog4j.configuration="file:$PARTS/kafka-log4j.properties"
    -Dlog4j2.configurationFile="$PARTS/kafka-log4j2.properties"
    -Dwalferry.log.level="$([[ $archive == tool ]] && echo WARN || echo INFO)"
    -Dorg.slf4j.simpleLogger.showDateTime=true -Dorg.slf4j.simpleLogger.dateTimeFormat="yyyy-MM-dd HH:mm:ss,SSS")
  [[ ! -f $DIST/kafka-$KAFKA_VERSION/$archive.jsa || -n ${KAFKA_HOME:-} ]] ||
    JVM_FLAGS+=(-XX:SharedArchiveFile="$DIST/kafka-$KAFKA_VERSION/$archive.jsa" -Xlog:cds=off -Xlog:class+path=off)
  # Last, so that it wins: a benchmark wants the optimizing compiler, for instance.
  local -a own
  read -ra own <<<"${WALFERRY_KAFKA_JVM:-}"
  JVM_FLAGS+=("${own[@]}")
}

# Settings of one broker; what a test sets with --set comes last and wins.
kafka_properties() {
  local dir=$1 node=$2 port=$4 controller_port=$5 voters=$6 safe=$(($3 >= 3 ? 3 : 1))
  shift 6
  cat <<PROPERTIES
process.roles=broker,controller
node.id=$node
controller.quorum.voters=$voters
listeners=PLAINTEXT://127.0.0.1:$port,CONTROLLER://127.0.0.1:$controller_port
advertised.listeners=PLAINTEXT://127.0.0.1:$port
listener.security.protocol.map=PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT
controller.listener.names=CONTROLLER
log.dirs=$dir/node-$node/data
auto.create.topics.enable=false
default.replication.factor=$safe
min.insync.replicas=$((safe > 1 ? 2 : 1))
offsets.topic.replication.factor=$safe
offsets.topic.num.partitions=1
transaction.state.log.replication.factor=$safe
transaction.state.log.min.isr=$((safe > 1 ? 2 : 1))
transaction.state.log.num.partitions=1
group.initial.rebalance.delay.ms=0
log.cleaner.dedupe.buffer.size=16777216
# A killed broker may come back only when its old session is over: 9 s is too long for tests.
broker.session.timeout.ms=3000
broker.heartbeat.interval.ms=500
PROPERTIES
  [[ $KAFKA_VERSION == 3.* ]] || cat <<PROPERTIES
share.coordinator.state.topic.replication.factor=$safe
share.coordinator.state.topic.min.isr=$((safe > 1 ? 2 : 1))
share.coordinator.state.topic.num.partitions=1
PROPERTIES
  [[ $# -eq 0 ]] || printf '%s\n' "$@"
}

random_uuid_for_kafka() {
  local id
  id=$(head -c16 /dev/urandom | base64)
  id=${id//+/A} id=${id//\//B}
  printf '%s\n' "${id%%=*}"
}

# What Kafka's formatter wrote once, with new ids: formatting by Kafka itself starts a JVM for 0.7 s.
format_broker() {
  local data=$1 node=$2 cluster=$3
  mkdir -p -- "$data"
  cp -- "$(kafka_template)/bootstrap.checkpoint" "$data/"
  printf '%s\n' version=1 "node.id=$node" "directory.id=$(random_uuid_for_kafka)" "cluster.id=$cluster" >"$data/meta.properties"
}

# Where that is kept; one for each Kafka, as the format goes with its version.
kafka_template() {
  if [[ -n ${KAFKA_HOME:-} ]]; then
    printf '%s/kafka-home-%s\n' "$DIST" "$(cksum <<<"$(echo "$KAFKA_HOME"/libs/kafka-clients-*.jar)" | cut -d' ' -f1)"
  else
    echo "$DIST/kafka-$KAFKA_VERSION"
  fi
}

# Formats once and, for a fetched Kafka, records the classes a broker and a tool load.
make_kafka_template() {
  local template work
  template=$(kafka_template)
  [[ ! -f $template/bootstrap.checkpoint ]] || return 0
  mkdir -p -- "$template"
  work=$(mktemp -d "$DIST/.kafka-format.XXXXXX")
  kafka_jvm_flags none
  kafka_properties "$work" 1 1 9092 9093 1@127.0.0.1:9093 >"$work/server.properties"
  mkdir -p "$work/node-1"
  quietly "formatting Kafka's storage" "$LOG/kafka-format.log" \
    "$(java_program)" "${JVM_FLAGS[@]}" -cp "$(kafka_classpath)" kafka.tools.StorageTool format -t "$(random_uuid_for_kafka)" -c "$work/server.properties"
  if [[ -z ${KAFKA_HOME:-} ]]; then
    cp "$work/node-1/data/bootstrap.checkpoint" "$template/bootstrap.checkpoint.new"
    mv "$template/bootstrap.checkpoint.new" "$template/bootstrap.checkpoint"
    record_kafka_classes "$template" "$work/recording" || say "could not record Kafka's classes; its start-up stays slower"
  else
    cp "$work/node-1/data/bootstrap.checkpoint" "$template/"
  fi
  rm -rf -- "$work"
}

# Runs a broker and a tool once with -XX:ArchiveClassesAtExit. Best effort: only speed depends on it.
record_kafka_classes() {
  local template=$1 dir=$2 bootstrap
  say "recording Kafka's classes for a faster start"
  (
    trap 'kafka_stop "$dir" immediate' EXIT
    WALFERRY_KAFKA_JVM="-XX:ArchiveClassesAtExit=$template/.broker.jsa"
    kafka_start "$dir" 1
    bootstrap=$(<"$dir/bootstrap")
    "$(java_program)" -XX:TieredStopAtLevel=1 -XX:+UseSerialGC -XX:ArchiveClassesAtExit="$template/.tool.jsa" \
      -cp "$(kafka_classpath)" org.apache.kafka.tools.TopicCommand --bootstrap-server "$bootstrap" --create --topic warm
    stop_process "$dir/node-1/pid" TERM 60
    mv "$template/.broker.jsa" "$template/broker.jsa"
    mv "$template/.tool.jsa" "$template/tool.jsa"
    chmod a+r "$template"/*.jsa
  ) >"$LOG/kafka-classes.log" 2>&1 </dev/null
}

# Ports and settings of a new cluster; with users (KAFKA_USERS) also a secured listener.
create_kafka() {
  local dir=$1 brokers=$2 node voters='' bootstrap='' secure='' cluster
  local -a ports controllers secures more=()
  cluster=$(random_uuid_for_kafka)
  for ((node = 1; node <= brokers; node++)); do
    ports[node]=$(free_port)
    controllers[node]=$(free_port)
    secures[node]=$(free_port)
    voters+=${voters:+,}$node@127.0.0.1:${controllers[node]}
    bootstrap+=${bootstrap:+,}127.0.0.1:${ports[node]}
    secure+=${secure:+,}127.0.0.1:${secures[node]}
  done
  [[ ${#KAFKA_USERS[@]} -eq 0 ]] || make_certificates "$dir/tls" broker
  for ((node = 1; node <= brokers; node++)); do
    mkdir -p -- "$dir/node-$node"
    [[ ${#KAFKA_USERS[@]} -eq 0 ]] ||
      mapfile -t more < <(kafka_secure_properties "$dir" "${ports[node]}" "${controllers[node]}" "${secures[node]}" "${KAFKA_USERS[@]}")
    kafka_properties "$dir" "$node" "$brokers" "${ports[node]}" "${controllers[node]}" "$voters" "${more[@]}" >"$dir/node-$node/server.properties"
    if [[ ${#KAFKA_USERS[@]} -eq 0 ]]; then
      format_broker "$dir/node-$node/data" "$node" "$cluster"
    else
      format_secure_broker "$dir/node-$node/server.properties" "$cluster" "${KAFKA_USERS[@]}"
    fi
  done
  [[ ${#KAFKA_USERS[@]} -eq 0 ]] || echo "$secure" >"$dir/secure"
  echo "$cluster" >"$dir/cluster-id"
  echo "$bootstrap" >"$dir/bootstrap"
}

start_broker() {
  local dir=$1 node=$2 heap=$3
  [[ ! -f $dir/node-$node/pid ]] || ! running_process "$dir/node-$node/pid" >/dev/null || return 0
  kafka_jvm_flags broker
  : >"$dir/node-$node/started"
  # The log of an earlier run must not be taken for this one's.
  [[ ! -f $dir/node-$node/log ]] || cat "$dir/node-$node/log" >>"$dir/node-$node/log.old"
  : >"$dir/node-$node/log"
  start_detached "$dir/node-$node/pid" "$dir/node-$node/log" \
    "$(java_program)" -Xms128m "-Xmx$heap" "${JVM_FLAGS[@]}" -cp "$(kafka_classpath)" kafka.Kafka "$dir/node-$node/server.properties"
}

# Ready, or ended before it was.
broker_settled() {
  local dir=$1 node=$2
  process_is_gone "$dir/node-$node/pid" || grep -q 'Kafka Server started\|KafkaRaftServer nodeId=[0-9]*] Kafka Server started' "$dir/node-$node/log"
}

await_broker() {
  local dir=$1 node=$2
  if wait_until 90 broker_settled "$dir" "$node" && ! process_is_gone "$dir/node-$node/pid"; then return 0; fi
  show_log_end "$dir/node-$node/log"
  die "Kafka broker $node in $dir did not start" "its log: $dir/node-$node/log"
}

kafka_nodes() {
  local node
  for node in "$1"/node-*; do [[ ! -d $node ]] || echo "${node##*-}"; done
}

# kafka_start DIR BROKERS [k=v…]: all brokers (or those that do not run) of the cluster in DIR, made if it is not there.
kafka_start() {
  local dir=$1 brokers=$2 node setting heap
  shift 2
  mkdir -p -- "$dir"
  dir=$(readlink -f -- "$dir")
  [[ -f $dir/bootstrap ]] || create_kafka "$dir" "$brokers"
  remember_server "$dir" kafka
  heap=${WALFERRY_KAFKA_HEAP:-512m}
  for node in ${ONLY_NODE:-$(kafka_nodes "$dir")}; do
    for setting in "$@"; do
      [[ $setting == *=* ]] || die "--set wants name=value, not '$setting'"
      sed -i "/^${setting%%=*}=/d" "$dir/node-$node/server.properties"
      printf '%s\n' "$setting" >>"$dir/node-$node/server.properties"
    done
    start_broker "$dir" "$node" "$heap"
  done
  for node in ${ONLY_NODE:-$(kafka_nodes "$dir")}; do await_broker "$dir" "$node"; done
}

# kafka_stop DIR MODE: fast asks the broker to hand over and flush, immediate kills it.
# Brokers that are to stop together are all told before any is waited for: a quorum that shrinks one by one hangs.
kafka_stop() {
  local dir=$1 mode=${2:-fast} signal=TERM node pid
  [[ $mode != immediate ]] || signal=KILL
  for node in ${ONLY_NODE:-$(kafka_nodes "$dir")}; do
    if pid=$(running_process "$dir/node-$node/pid"); then kill -CONT "$pid" 2>/dev/null || true; kill -"$signal" "$pid" 2>/dev/null || true; fi
  done
  for node in ${ONLY_NODE:-$(kafka_nodes "$dir")}; do stop_process "$dir/node-$node/pid" "$signal" 20; done
  [[ -n ${ONLY_NODE:-} ]] || forget_server "$dir"
}

# Runs one of Kafka's own tools by the class behind its shell script.
cmd_kafka_tool() {
  local tool=$1 class bootstrap
  shift
  case $tool in
    kafka-topics) class=org.apache.kafka.tools.TopicCommand ;;
    kafka-console-consumer) class=org.apache.kafka.tools.consumer.ConsoleConsumer ;;
    kafka-console-producer) class=org.apache.kafka.tools.ConsoleProducer ;;
    kafka-consumer-groups) class=org.apache.kafka.tools.consumer.group.ConsumerGroupCommand ;;
    kafka-configs) class=kafka.admin.ConfigCommand ;;
    kafka-get-offsets) class=org.apache.kafka.tools.GetOffsetShell ;;
    kafka-delete-records) class=org.apache.kafka.tools.DeleteRecordsCommand ;;
    *) die "no tool '$tool'" "./dev help lists those there are" ;;
  esac
  # An explicit address wins: tests and second clusters have their own.
  if [[ " $* " == *" --bootstrap-server"* ]]; then
    bootstrap=()
  else
    bootstrap=(--bootstrap-server "$(stack_kafka_address)")
  fi
  ensure_kafka_tools
  kafka_jvm_flags tool
  JVM_FLAGS+=(-Dorg.slf4j.simpleLogger.defaultLogLevel=warn)
  exec "$(java_program)" -Xmx256m "${JVM_FLAGS[@]}" -cp "$(kafka_classpath)" "$class" "${bootstrap[@]}" "$@"
}
