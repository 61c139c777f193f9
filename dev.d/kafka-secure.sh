# shellcheck shell=bash
# A Kafka listener with TLS and SASL beside the plain one, for tests: a certificate (certificates.sh), users for PLAIN
# and SCRAM.
#   DIR/tls/{ca.pem,broker.pem}   DIR/secure (address)

# What a broker's settings have beyond kafka_properties, one a line; where a name repeats, the last one wins.
# kafka_secure_properties DIR PORT CONTROLLER_PORT SECURE_PORT USER:PASSWORD…
kafka_secure_properties() {
  local dir=$1 port=$2 controller_port=$3 secure_port=$4 user users=
  shift 4
  for user in "$@"; do users+=" user_${user%%:*}=\"${user#*:}\""; done
  cat <<PROPERTIES
listeners=PLAINTEXT://127.0.0.1:$port,SASL_SSL://127.0.0.1:$secure_port,CONTROLLER://127.0.0.1:$controller_port
advertised.listeners=PLAINTEXT://127.0.0.1:$port,SASL_SSL://127.0.0.1:$secure_port
listener.security.protocol.map=PLAINTEXT:PLAINTEXT,SASL_SSL:SASL_SSL,CONTROLLER:PLAINTEXT
sasl.enabled.mechanisms=PLAIN,SCRAM-SHA-256,SCRAM-SHA-512
listener.name.sasl_ssl.plain.sasl.jaas.config=org.apache.kafka.common.security.plain.PlainLoginModule required$users;
listener.name.sasl_ssl.scram-sha-256.sasl.jaas.config=org.apache.kafka.common.security.scram.ScramLoginModule required;
listener.name.sasl_ssl.scram-sha-512.sasl.jaas.config=org.apache.kafka.common.security.scram.ScramLoginModule required;
ssl.keystore.type=PEM
ssl.keystore.location=$dir/tls/broker.pem
PROPERTIES
}

# Formats a broker's storage by Kafka's own tool: SCRAM users are part of what it writes.
# format_secure_broker PROPERTIES CLUSTER USER:PASSWORD…
format_secure_broker() {
  local properties=$1 cluster=$2 user mechanism
  local -a scram=()
  shift 2
  for user in "$@"; do
    for mechanism in SCRAM-SHA-256 SCRAM-SHA-512; do
      scram+=(--add-scram "$mechanism=[name=${user%%:*},password=${user#*:}]")
    done
  done
  kafka_jvm_flags tool
  quietly "formatting Kafka's storage" "${properties%/*}/format.log" \
    "$(java_program)" "${JVM_FLAGS[@]}" -cp "$(kafka_classpath)" kafka.tools.StorageTool format -t "$cluster" -c "$properties" "${scram[@]}"
}
