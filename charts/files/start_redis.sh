#!/bin/sh
# Start of Redis: writes the access control list from the rules of the chart and the passwords of the
# mounted Secret, so that a Secret of the installation's own works as well as the chart's.
set -eu
umask 077 # the append-only file holds texts of users
rules=${REDIS_RULES:-/etc/redis/users}
passwords=${REDIS_PASSWORDS:-/run/secrets/redis}
acl=${REDIS_ACL:-/run/redis/users.acl}
echo "user default off resetkeys resetchannels -@all" >"$acl"
while read -r user allowed; do
  if [ ! -s "$passwords/$user" ]; then
    echo "redis.auth.existingSecret: has no password in the key '$user'; add it" >&2
    exit 1
  fi
  # Clients get it inside a URL, and as it is: a line break at its end belongs to it.
  if [ -n "$(tr -d "A-Za-z0-9._~!\$&'()*+,;=:@-" <"$passwords/$user" | od -An -c)" ]; then
    echo "redis.auth.existingSecret: the password in the key '$user' has a character that a URL cannot carry, such as / ? # % or a line break at its end; use letters and digits" >&2
    exit 1
  fi
  digest=$(sha256sum <"$passwords/$user")
  echo "user $user on #${digest%% *} resetkeys resetchannels -@all $allowed" >>"$acl"
done <"$rules"
exec redis-server "${REDIS_CONFIG:-/etc/redis/redis.conf}" --aclfile "$acl"
