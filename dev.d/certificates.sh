# shellcheck shell=bash
# Certificates of secured servers, for tests: an authority of a server's own, a certificate for 127.0.0.1 and localhost.

# make_certificates DIR NAME: an authority (ca.pem), and a server's key and certificate signed by it (NAME.key, NAME.crt, both
# in NAME.pem), each with one openssl call.
make_certificates() {
  local tls=$1 name=$2
  command -v openssl >/dev/null || die "openssl is missing: a secured server needs certificates" "install it (Debian: apt-get install openssl)"
  mkdir -p -- "$tls"
  quietly "making an authority" "$tls/openssl.log" openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -noenc \
    -subj "/CN=walferry test authority" -days 3650 -keyout "$tls/ca.key" -out "$tls/ca.pem"
  quietly "making a certificate for $name" "$tls/openssl.log" openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -noenc \
    -subj "/CN=$name" -addext "subjectAltName=IP:127.0.0.1,DNS:localhost" -addext "basicConstraints=critical,CA:FALSE" \
    -CA "$tls/ca.pem" -CAkey "$tls/ca.key" -days 3650 -keyout "$tls/$name.key" -out "$tls/$name.crt"
  # Some read key and chain from one file.
  cat "$tls/$name.key" "$tls/$name.crt" >"$tls/$name.pem"
}
