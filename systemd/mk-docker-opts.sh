#!/bin/sh
# Part of flanneld-ts: turns flanneld's subnet.env into options for dockerd. Same options and, on success, same output as the
# script of this name that flannel ships; unlike that one it writes its file in one step, and nothing at all when something
# is wrong.
#
# Runs in any POSIX sh. Bash goes on after an error in a file it reads unless it is in POSIX mode: this variable switches it on.
POSIXLY_CORRECT=1
LC_ALL=C
export LC_ALL

program=mk-docker-opts.sh

usage() {
  cat <<TEXT
usage: $program [-f FILE] [-d FILE] [-i] [-c] [-k NAME] [-m]

Writes options for dockerd, made from flanneld's subnet file.

  -f FILE  read the subnet from FILE (default /run/flannel/subnet.env)
  -d FILE  write to FILE (default /run/docker_opts.env)
  -i       one variable per option: DOCKER_OPT_BIP, DOCKER_OPT_IPMASQ, DOCKER_OPT_MTU
  -c       one variable with all options (default: -i and -c)
  -k NAME  its name (default DOCKER_OPTS); a value it has already is kept in front
  -m       leave out --ip-masq (for a docker too old to know it)

DOCKER_OPT_* variables of the environment are taken along.
TEXT
}

die() {
  printf '%s: %s\n' "$program" "$*" >&2
  exit 1
}

# $1: an IPv4 address with a prefix length. Prints the subnet it lies in, or fails.
subnet_of() {
  IFS=./ read -r a b c d length <<TEXT
$1
TEXT
  [ "$a.$b.$c.$d/$length" = "$1" ] || return 1
  for number in "$a" "$b" "$c" "$d" "$length"; do
    # A leading zero would be read as octal.
    case $number in '' | *[!0-9]* | ????* | 0?*) return 1 ;; esac
    [ "$number" -le 255 ] || return 1
  done
  [ "$length" -le 32 ] || return 1
  bits=$(((a << 24 | b << 16 | c << 8 | d) & (0xffffffff << (32 - length))))
  printf '%d.%d.%d.%d/%d\n' $((bits >> 24 & 255)) $((bits >> 16 & 255)) $((bits >> 8 & 255)) $((bits & 255)) "$length"
}

# $1: a subnet. Prints the gateway when the main table sends it to one: this host's own containers would be unreachable.
gateway_to() {
  command -v ip >/dev/null || return 0
  ip -4 route show 2>/dev/null | {
    destination=
    while read -r first rest; do
      # The next hops of a multipath route are lines of their own.
      [ "$first" = nexthop ] || destination=$first
      [ "$destination" = "$1" ] || continue
      case " $rest " in *' via '*) rest="${rest#*via }" && printf '%s\n' "${rest%% *}" && return ;; esac
    done
  }
}

# The names of all DOCKER_OPT_ variables, sorted. A line inside a value may look like an assignment: only what is set counts.
option_names() {
  set | sed -n 's/^\(DOCKER_OPT_[A-Za-z0-9_]*\)=.*/\1/p' | sort -u | while read -r name; do
    eval "[ -z \"\${$name+set}\" ]" || printf '%s\n' "$name"
  done
}

# Prints the whole output, made from the environment.
render() {
  if [ -n "$FLANNEL_SUBNET" ]; then
    subnet=$(subnet_of "$FLANNEL_SUBNET") || die "FLANNEL_SUBNET is no IPv4 address with a prefix length: '$FLANNEL_SUBNET'"
    gateway=$(gateway_to "$subnet")
    [ -z "$gateway" ] || die "this host's own subnet $subnet is routed via $gateway; remove that route: ip route del $subnet via $gateway"
    DOCKER_OPT_BIP=--bip=$FLANNEL_SUBNET
  fi
  if [ -n "$FLANNEL_MTU" ]; then
    case $FLANNEL_MTU in *[!0-9]*) die "FLANNEL_MTU is no number: '$FLANNEL_MTU'" ;; esac
    DOCKER_OPT_MTU=--mtu=$FLANNEL_MTU
  fi
  # Docker masquerades exactly when flanneld does not.
  if [ "$with_ip_masq" = yes ]; then
    case $FLANNEL_IPMASQ in
      true) DOCKER_OPT_IPMASQ=--ip-masq=false ;;
      false) DOCKER_OPT_IPMASQ=--ip-masq=true ;;
      '') ;;
      *) die "FLANNEL_IPMASQ is neither true nor false: '$FLANNEL_IPMASQ'" ;;
    esac
  fi
  [ -n "$DOCKER_OPT_BIP$DOCKER_OPT_MTU$DOCKER_OPT_IPMASQ" ] || die "$subnet_file has no FLANNEL_SUBNET; is flanneld ready?"

  eval "combined=\$$key"
  [ -z "$combined" ] || combined="$combined "
  for name in $(option_names); do
    value=
    eval "value=\$$name"
    [ "$individual" != yes ] || printf '%s="%s"\n' "$name" "$value"
    combined="$combined $value"
  done
  [ "$all_in_one" != yes ] || printf '%s="%s"\n' "$key" "$combined"
}

# $1: the content. The file appears whole, with the mode a plain redirection gives it, or stays as it was.
write_output() {
  [ ! -d "$output_file" ] || die "$output_file is a folder"
  case $output_file in
    # These are names of open files, and replacing them would cut them off from what they name.
    /dev/* | /proc/*) direct=yes ;;
    *) if [ -e "$output_file" ] && [ ! -f "$output_file" ]; then direct=yes; else direct=no; fi ;;
  esac
  if [ "$direct" = yes ]; then
    printf '%s\n' "$1" >"$output_file" || die "$output_file cannot be written"
    return
  fi
  case $output_file in */*) folder=${output_file%/*}/ ;; *) folder=./ ;; esac
  temporary=$folder.${output_file##*/}.$$.tmp
  trap 'rm -f -- "$temporary"' EXIT
  trap 'exit 1' HUP INT TERM
  rm -f -- "$temporary"
  # In a subshell: a failed redirection may end the shell it happens in.
  if ! (set -C && printf '%s\n' "$1" >"$temporary") 2>/dev/null || ! mv -f -- "$temporary" "$output_file"; then
    die "$output_file cannot be written: does its folder exist, and is there space?"
  fi
  trap - EXIT HUP INT TERM
}

subnet_file=/run/flannel/subnet.env
output_file=/run/docker_opts.env
key=DOCKER_OPTS
individual=no
all_in_one=no
with_ip_masq=yes

while getopts :f:d:k:icmh option; do
  case $option in
    f) subnet_file=$OPTARG ;;
    d) output_file=$OPTARG ;;
    k) key=$OPTARG ;;
    i) individual=yes ;;
    c) all_in_one=yes ;;
    m) with_ip_masq=no ;;
    h)
      usage >&2
      exit 1
      ;;
    :)
      usage >&2
      die "option -$OPTARG needs a value"
      ;;
    *)
      usage >&2
      die "unknown option -$OPTARG"
      ;;
  esac
done
if [ $individual = no ] && [ $all_in_one = no ]; then
  individual=yes
  all_in_one=yes
fi
case $key in '' | [0-9]* | *[!A-Za-z0-9_]*) die "-k needs the name of a variable, not '$key'" ;; esac
[ -f "$subnet_file" ] || die "$subnet_file does not exist; is flanneld ready?"
[ -r "$subnet_file" ] || die "$subnet_file cannot be read"
[ -s "$subnet_file" ] || die "$subnet_file is empty; is flanneld ready?"

# A name without a slash would be looked up in PATH.
case $subnet_file in */*) ;; *) subnet_file=./$subnet_file ;; esac
# Whatever the file does ends with this subshell, and what it prints is no output. A line that fails makes it unusable. Not
# in a condition: there `set -e` would have no effect.
content=$(
  set -e
  # shellcheck source=/dev/null
  . "$subnet_file" >&2
  set +e
  render
)
status=$?
if [ $status != 0 ] || [ -z "$content" ]; then
  die "$subnet_file cannot be used; nothing was written to $output_file"
fi
write_output "$content"
