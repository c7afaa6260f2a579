#!/bin/sh
# Make a CA, and certificates of it: a node's names the node, a manager's also the address that nodes find it at.
#
#   sh examples/fabric/certificates.sh FOLDER tor1 point1 manager1=10.0.0.100
set -eu
folder=$1
shift
mkdir -p "$folder"
cd "$folder"
[ -e ca.pem ] || openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 3650 \
    -keyout ca.key -out ca.pem -subj "/CN=fastpath CA" 2>/dev/null
for who in "$@"; do
    name=${who%%=*}
    names="DNS:$name"
    [ "$who" = "$name" ] || names="$names,IP:${who#*=}"
    openssl req -new -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -keyout "$name.key" -out "$name.csr" \
        -subj "/CN=$name" 2>/dev/null
    printf 'subjectAltName=%s\nextendedKeyUsage=serverAuth,clientAuth\n' "$names" > "$name.ext"
    openssl x509 -req -in "$name.csr" -CA ca.pem -CAkey ca.key -CAcreateserial -days 365 -extfile "$name.ext" \
        -out "$name.pem" 2>/dev/null
    rm "$name.csr" "$name.ext"
done
