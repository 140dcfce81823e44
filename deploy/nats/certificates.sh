#!/usr/bin/env bash
# A certificate authority for development, and a certificate for the nodes: certificates.sh [DIRECTORY]
#
# Writes ca.pem, node.pem and node.key; the authority's own key is deleted, so that nothing else is ever signed by it.
# In production these come from your own authority: one for nodes alone, since its certificates let a node in.
set -euo pipefail

directory=${1:-"$(dirname "$0")/secrets"}
names="DNS:localhost,DNS:nats-1,DNS:nats-2,DNS:nats-3,IP:127.0.0.1,IP:::1"
umask 077
mkdir -p "$directory"
cd "$directory"
authority_key=$(mktemp)
trap 'rm -f "$authority_key" node.csr node.ext' EXIT

key=(-newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes)
openssl req "${key[@]}" -x509 -days 365 -subj "/CN=gamebroker development" -keyout "$authority_key" -out ca.pem 2>/dev/null
openssl req "${key[@]}" -subj "/CN=gamebroker node" -keyout node.key -out node.csr 2>/dev/null
printf 'subjectAltName=%s\nextendedKeyUsage=serverAuth,clientAuth\n' "$names" > node.ext
openssl x509 -req -in node.csr -CA ca.pem -CAkey "$authority_key" -set_serial "0x$(openssl rand -hex 16)" \
  -days 365 -extfile node.ext -out node.pem 2>/dev/null
chmod 644 ca.pem node.pem
