#!/usr/bin/env bash
# A password for every role, as lines NAME=value: passwords.sh > .env
# And for the roles that store, what makes the ids of their keys: nobody else can use one up first.
#
# Letters and digits that begin with a letter: nats-server reads a variable as it would read the value in its file,
# where a password of digits is a number.
set -euo pipefail

for role in ROOM GATEWAY SETTLEMENT LEADERBOARD MAIL AUDIT DASHBOARD ADMIN SYS SESSION_1; do
  echo "${role}_PASSWORD=p$(openssl rand -hex 24)"
done
for role in ROOM SETTLEMENT LEADERBOARD MAIL; do
  echo "${role}_ID_SECRET=$(openssl rand -hex 24)"
done
