#!/usr/bin/env bash
#
# Defib's agent for Linux: tells Defib every few seconds that this machine is alive.
#
# One file on purpose: it is served, copied and read as a whole. The parts, in order:
#   1. small helpers        log, JSON text, deadlines, waiting
#   2. what is measured     identity, CPU, memory, disks -> the report
#   3. delivery             one POST, and what its answer means
#   4. the loop             period, back-off, the goodbye
#   5. configuration        file, environment, options
#   6. install, uninstall   systemd or cron
#
# Needs bash >= 4.2, curl, coreutils. The shape of a report: report.schema.json.
#
# No `set -e` and no `set -u`: one odd line in /proc must cost one field, never the heartbeat.

# Bytes, not characters: mount names are bytes, and [a-z] must mean ASCII. Times are UTC.
export LC_ALL=C TZ=UTC0
# cron starts jobs with a short PATH.
PATH=${PATH:+$PATH:}/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
umask 077

readonly AGENT_VERSION=0.1.0

readonly DEFAULT_CONFIG=/etc/defib/agent.conf
readonly DEFAULT_REPORT_SECONDS=30
readonly MIN_REPORT_SECONDS=1 MAX_REPORT_SECONDS=3600

# A request that takes longer than this is retried: a later sample is worth more than a late one.
readonly CONNECT_SECONDS=5 REQUEST_SECONDS=10
# The goodbye must fit into the 3 s that shutdown is promised, with sampling and process start.
readonly GOODBYE_SECONDS=2
# A healthy filesystem answers statfs from memory in microseconds.
readonly DISK_SECONDS=2
# What the receiver accepts in one report; the fullest are kept.
readonly MAX_DISKS=64
# How many filesystems are asked at most: each costs a process.
readonly MAX_MOUNTS=128
readonly MAX_NAME_BYTES=255
readonly MAX_BYTES=$((1 << 60))
# An honest answer has a few hundred bytes; what a proxy in between may send is not read further.
readonly MAX_ANSWER_BYTES=16384

# ---------------------------------------------------------------------------------------------
# 1. Small helpers

# Messages go to the standard error the agent was started with, whatever is redirected meanwhile.
exec {LOG_FD}>&2
# Replaced by the lock on the configuration; children must not inherit it (a child that hangs
# would keep a new agent from starting), so there is always something to close.
exec {LOCK_FD}</dev/null

AGENT_KEY=
# The process being waited for: a signal ends it.
CHILD=

# log LEVEL TEXT: LEVEL is a syslog priority (3 error, 4 warning, 6 info).
log() {
  local text=$2
  # A server may quote the request in its answer: neither the key nor terminal codes get through.
  (( ${#AGENT_KEY} >= 8 )) && text=${text//"$AGENT_KEY"/[key]}
  text=${text//[[:cntrl:]]/ }
  if [[ -n $JOURNAL_STREAM && ! -t $LOG_FD ]]; then
    printf '<%d>%s\n' "$1" "$text" >&"$LOG_FD"
  else
    printf '%(%Y-%m-%dT%H:%M:%SZ)T defib-agent: %s\n' -1 "$text" >&"$LOG_FD"
  fi
} 2>/dev/null

fail() {
  log 3 "$2"
  exit "$1"
}

# json_string TEXT: JSON is TEXT as a JSON string. Bytes that are not UTF-8 become \xHH in the
# text (two different names stay different); longer than 255 bytes: the middle becomes an ellipsis.
json_string() {
  local text=$1
  if (( ${#text} <= MAX_NAME_BYTES )) && [[ $text != *[!\ -~]* && $text != *[\"\\]* ]]; then
    JSON="\"$text\""
    return
  fi
  # One element per character: what it looks like in JSON, and its size in the decoded text.
  local -a shown=() sizes=()
  local i=0 byte width part total=0
  while (( i < ${#text} )); do
    byte_at "$text" "$i"; byte=$BYTE
    utf8_width "$text" "$i" "$byte"; width=$WIDTH
    if (( width > 1 )); then
      part=${text:i:width}
    elif (( byte >= 0x80 )); then
      printf -v part '\\\\x%02x' "$byte"; sizes+=(4)
    elif (( byte == 0x22 || byte == 0x5c )); then
      part="\\${text:i:1}"
    elif (( byte < 0x20 || byte == 0x7f )); then
      printf -v part '\\u%04x' "$byte"
    else
      part=${text:i:1}
    fi
    shown+=("$part")
    (( ${#sizes[@]} < ${#shown[@]} )) && sizes+=("$width")
    (( total += sizes[${#sizes[@]} - 1], i += width ))
  done
  JSON=
  if (( total <= MAX_NAME_BYTES )); then
    printf -v JSON '%s' "${shown[@]}"
  else
    local head=0 tail=${#shown[@]} room=$((MAX_NAME_BYTES - 3)) tail_text=
    while (( head < tail && sizes[head] <= room - MAX_NAME_BYTES / 2 )); do
      JSON+=${shown[head]}; (( room -= sizes[head], head++ ))
    done
    while (( tail > head && sizes[tail - 1] <= room )); do
      (( tail--, room -= sizes[tail] )); tail_text=${shown[tail]}$tail_text
    done
    JSON+=$'\xe2\x80\xa6'$tail_text
  fi
  JSON="\"$JSON\""
}

# byte_at TEXT INDEX: BYTE is its value. The mask undoes the sign that some versions give it.
byte_at() {
  printf -v BYTE '%d' "'${1:$2:1}"
  (( BYTE &= 0xff ))
}

# utf8_width TEXT INDEX FIRST_BYTE: WIDTH is the length of the well-formed UTF-8 sequence there
# (Unicode, table 3-7), 1 for ASCII and for a byte that begins none.
utf8_width() {
  local low=0x80 high=0xbf count=1 k
  WIDTH=1
  if (( $3 >= 0xc2 && $3 <= 0xdf )); then count=2
  elif (( $3 >= 0xe0 && $3 <= 0xef )); then count=3
    (( $3 == 0xe0 )) && low=0xa0
    (( $3 == 0xed )) && high=0x9f
  elif (( $3 >= 0xf0 && $3 <= 0xf4 )); then count=4
    (( $3 == 0xf0 )) && low=0x90
    (( $3 == 0xf4 )) && high=0x8f
  else return
  fi
  (( $2 + count <= ${#1} )) || return
  for (( k = 1; k < count; k++ )); do
    byte_at "$1" $(($2 + k))
    (( BYTE >= low && BYTE <= high )) || return
    low=0x80 high=0xbf
  done
  WIDTH=$count
}

# json_field NAME TEXT: VALUE is the first string member NAME in the JSON TEXT, unescaped as far as
# a log line needs it. Not a JSON parser: it reads only what Defib's receiver answers.
json_field() {
  local pattern="\"$1\"[[:space:]]*:[[:space:]]*\"(([^\"\\\\]|\\\\.)*)\""
  VALUE=
  [[ $2 =~ $pattern ]] || return 1
  VALUE=${BASH_REMATCH[1]}
  VALUE=${VALUE//\\\"/\"}
  VALUE=${VALUE//\\n/ }
  VALUE=${VALUE//\\\//\/}
  VALUE=${VALUE//\\\\/\\}
}

# capture SECONDS COMMAND...: runs it with this deadline; REPLY is what it printed (without NUL
# bytes), the result its exit status. Signals interrupt it at once, which `$(...)` would not allow,
# and nothing is written to disk: a heartbeat must also leave a machine whose disk is full.
capture() {
  local pipe status
  exec {pipe}<> <(:)
  # timeout leads a process group of its own and ends all of it. A process that cannot be killed
  # (stuck in the kernel) is left behind: it is not timeout's own child and holds nothing of ours.
  timeout -k 1 "$1" "${@:2}" <&0 >&"$pipe" {LOCK_FD}>&- &
  CHILD=$!
  wait "$CHILD" 2>/dev/null
  status=$?
  CHILD=
  printf '\0' >&"$pipe"
  IFS= read -r -d '' REPLY <&"$pipe"
  exec {pipe}>&-
  return "$status"
}

# pause MILLISECONDS: sleeps; a signal is handled at once.
pause() {
  local duration
  printf -v duration '%d.%03d' $(($1 / 1000)) $(($1 % 1000))
  sleep "$duration" {LOCK_FD}>&- &
  CHILD=$!
  wait "$CHILD" 2>/dev/null
  CHILD=
}

# random_between LOW HIGH: RANDOM_VALUE is uniform between both. One RANDOM has only 15 bits.
random_between() {
  RANDOM_VALUE=$(($1 + (RANDOM * 32768 + RANDOM) % ($2 - $1 + 1)))
}

# ---------------------------------------------------------------------------------------------
# 2. What is measured

PROC_ROOT=${DEFIB_PROC_ROOT:-/proc}
SYS_ROOT=${DEFIB_SYS_ROOT:-/sys}

SUPERVISED=false
MACHINE_UUID=
CPU_PERCENT=0.0
CPU_BASE=()
CPU_NOW=()
DISKS=()
declare -A STUCK=()

readonly UUID_PATTERN='^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$'

# The SMBIOS uuid, by which Defib knows that this is the VM it may reset. It is read from the
# (virtual) hardware at every start and never kept: a configuration file gets cloned with the disk.
read_machine_uuid() {
  local file=$SYS_ROOT/class/dmi/id/product_uuid
  MACHINE_UUID=
  uuid_from_kernel "$file"
  # Not with another root: dmidecode would answer for the machine underneath.
  if [[ ! $UUID =~ $UUID_PATTERN && $SYS_ROOT == /sys ]]; then
    uuid_from_dmidecode
  fi
  # Firmware that has no uuid says all zeros or all ones (SMBIOS 7.2.1).
  if [[ $UUID =~ $UUID_PATTERN && $UUID == *[!0-]* && $UUID == *[!f-]* ]]; then
    MACHINE_UUID=$UUID
    return
  fi
  if [[ -e $file && ! -r $file ]]; then
    log 4 "cannot read $file: run the agent as root. Without machineUUID Defib resets this VM only with 'identity: Trust'"
  else
    log 4 "this machine has no SMBIOS uuid ($file): reports carry no machineUUID, so Defib resets this VM only with 'identity: Trust'"
  fi
  return 1
}

uuid_from_kernel() {
  UUID=
  [[ -r $1 ]] && read -r UUID <"$1" 2>/dev/null
  UUID=${UUID,,}
}

uuid_from_dmidecode() {
  local line
  command -v dmidecode >/dev/null || return
  capture 5 dmidecode -s system-uuid </dev/null 2>/dev/null
  # Comments may precede the answer.
  while IFS= read -r line; do
    line=${line,,}
    [[ $line =~ $UUID_PATTERN ]] && UUID=$line
  done < <(printf '%s\n' "$REPLY")
}

# Started by an init system, so that it comes back when it dies? Silence of an agent that a person
# runs in a terminal means that the person closed the terminal. INVOCATION_ID alone is no proof: it
# leaks from a desktop's or a console's unit into every shell below it.
started_by_systemd() {
  [[ -n $INVOCATION_ID && ( $SYSTEMD_EXEC_PID == "$$" || $PPID == 1 ) ]]
}

# CPU_NOW: user nice system idle iowait irq softirq steal, in ticks since boot. The fields after
# them (guest, guest_nice) are already part of user and nice.
read_cpu() {
  local -a fields=()
  read -r -a fields <"$PROC_ROOT/stat" 2>/dev/null
  [[ ${fields[0]} == cpu ]] || return 1
  CPU_NOW=("${fields[@]:1:8}")
}

# CPU_PERCENT between CPU_BASE and now. Waiting for a disk is idle: the CPU was free. Time stolen
# by the host is busy: the guest wanted it.
measure_cpu() {
  local i delta total=0 idle=0
  read_cpu || return
  if (( ${#CPU_BASE[@]} > 0 )); then
    for i in "${!CPU_NOW[@]}"; do
      delta=$((CPU_NOW[i] - ${CPU_BASE[i]:-0}))
      # iowait may count backwards, says proc(5); all may after a migration.
      (( delta < 0 )) && delta=0
      (( total += delta ))
      (( i == 3 || i == 4 )) && (( idle += delta ))
    done
    if (( total > 0 )); then
      local permille=$(((1000 * (total - idle) + total / 2) / total))
      CPU_PERCENT=$((permille / 10)).$((permille % 10))
    fi
  else
    CPU_BASE=("${CPU_NOW[@]}")
  fi
}

# MEMORY_TOTAL and MEMORY_USED in bytes. Kernels before 3.14 have no MemAvailable; the sum is what
# `free` showed then.
measure_memory() {
  local line name kib available
  local -a lines=()
  local -A memory=()
  mapfile -t lines 2>/dev/null <"$PROC_ROOT/meminfo"
  for line in "${lines[@]}"; do
    [[ $line =~ ^([A-Za-z]+):[[:space:]]+([0-9]+)\ kB ]] && memory[${BASH_REMATCH[1]}]=${BASH_REMATCH[2]}
  done
  kib=${memory[MemTotal]:-0}
  available=${memory[MemAvailable]}
  if [[ -z $available ]]; then
    available=0
    for name in MemFree Buffers Cached SReclaimable; do (( available += ${memory[$name]:-0} )); done
    # tmpfs is counted in Cached, but cannot be dropped.
    (( available -= ${memory[Shmem]:-0} ))
  fi
  (( available < 0 )) && available=0
  (( available > kib )) && available=$kib
  MEMORY_TOTAL=$((kib * 1024))
  MEMORY_USED=$(((kib - available) * 1024))
}

# A filesystem on a local block device that can fill up. A list of what is asked, not of what is
# skipped: asking a network or FUSE mount that hangs is what must never happen.
is_disk() { # TYPE SOURCE
  case $1 in
    zfs | bcachefs) return 0 ;;
    squashfs | erofs | iso9660 | udf | cramfs | romfs) return 1 ;; # always full
    autofs | fuse | fuse.* | devtmpfs | overlay) return 1 ;;
  esac
  [[ $2 == /dev/* ]]
}

# MOUNTS: where each local filesystem is mounted, one path per filesystem.
find_mounts() {
  # 36 35 98:0 /root /mount/point options [tags...] - type source options   (proc(5))
  local pattern='^[0-9]+ [0-9]+ ([0-9]+:[0-9]+) ([^ ]+) ([^ ]+) [^ ]+( [a-z_]+(:[0-9]+)?)* - ([^ ]+) ([^ ]*)'
  local line i device path chosen
  local -a lines=() devices=() roots=() paths=() types=() sources=() order=()
  local -A topmost=() best=()
  MOUNTS=()
  mapfile -t lines 2>/dev/null <"$PROC_ROOT/self/mountinfo"
  for line in "${lines[@]}"; do
    [[ $line =~ $pattern ]] || continue
    devices+=("${BASH_REMATCH[1]}") roots+=("${BASH_REMATCH[2]}") paths+=("${BASH_REMATCH[3]}")
    types+=("${BASH_REMATCH[6]}") sources+=("${BASH_REMATCH[7]}")
    # A later mount on the same path covers the earlier one.
    topmost["${BASH_REMATCH[3]}"]=$((${#paths[@]} - 1))
  done
  for i in "${!paths[@]}"; do
    path=${paths[i]} device=${devices[i]}
    [[ ${topmost["$path"]} == "$i" ]] || continue
    is_disk "${types[i]}" "${sources[i]}" || continue
    # Part of a filesystem is a bind mount, but for btrfs (subvolumes) and / (ostree).
    [[ ${roots[i]} == / || ${types[i]} == btrfs || $path == / ]] || continue
    # Owned by a container engine: comes and goes with its containers.
    [[ $path == /var/lib/docker/* || $path == /var/lib/containers/storage/* ]] && continue
    chosen=${best[$device]}
    if [[ -z $chosen ]]; then
      (( ${#order[@]} < MAX_MOUNTS )) || continue
      order+=("$device")
      best[$device]=$i
    elif [[ $path == / ]] || (( ${#path} < ${#paths[chosen]} )); then
      best[$device]=$i
    fi
  done
  for device in "${order[@]}"; do
    # The kernel writes blanks, line ends and backslashes as \ooo.
    path=${paths[best[$device]]}
    printf -v path '%b' "${path//\\/\\0}"
    MOUNTS+=("$path")
  done
}

# One statfs per process, all at once: one that hangs leaves the others' answers.
# `stat -f` asks only the path it is given, where df first reads and may touch every mount.
# shellcheck disable=SC2016 # expanded by the sh that runs it
readonly DISK_SCRIPT='
number=0
for mount; do
  stat -f -c "size $number %S %b %f" -- "$mount" 2>/dev/null &
  echo "asked $number $!"
  number=$((number + 1))
done
wait'

# DISKS: one JSON object per filesystem; at most MAX_DISKS, the fullest when there are more.
measure_disks() {
  local path word number size blocks free i status
  local -a asked=() pids=() sizes=() totals=() frees=() fullness=()
  find_mounts
  for path in "${MOUNTS[@]}"; do
    still_stuck "$path" || asked+=("$path")
  done
  DISKS=()
  (( ${#asked[@]} > 0 )) || return
  capture "$DISK_SECONDS" sh -c "$DISK_SCRIPT" sh "${asked[@]}" </dev/null
  status=$?
  while read -r word number size blocks free; do
    if [[ $word == asked ]]; then
      pids[number]=$size
      continue
    fi
    [[ $word == size && $free =~ ^[0-9]+$ ]] &&
      sizes[number]=$size totals[number]=$blocks frees[number]=$free
  done < <(printf '%s' "$REPLY")
  for i in "${!asked[@]}"; do
    path=${asked[i]}
    # Without an answer in time; one that was refused (gone, no permission) is just left out.
    if [[ -z ${frees[i]} ]]; then
      (( status >= 124 )) || continue
      [[ -n ${STUCK["$path"]} ]] || log 4 "the filesystem at $path does not answer: left out until it does"
      STUCK["$path"]=${pids[i]}
      continue
    fi
    add_disk "$path" "${sizes[i]}" "${totals[i]}" "${frees[i]}"
    if [[ -n ${STUCK["$path"]} ]]; then
      log 6 "the filesystem at $path answers again"
      STUCK["$path"]=
    fi
  done
  keep_fullest
}

# A process that hangs in the kernel cannot be ended. While it is there no other is started for
# that filesystem, or they would pile up.
still_stuck() {
  local pid=${STUCK["$1"]} name
  [[ -n $pid ]] && read -r name 2>/dev/null <"/proc/$pid/comm" && [[ $name == stat ]]
}

add_disk() { # PATH BLOCK_SIZE BLOCKS FREE
  local total used
  (( $2 > 0 && $3 > 0 && $3 <= MAX_BYTES / $2 )) || return
  total=$(($2 * $3))
  used=$(($2 * ($3 - $4)))
  (( used < 0 )) && used=0
  json_string "$1"
  DISKS+=("{\"mount\":$JSON,\"usedBytes\":$used,\"totalBytes\":$total}")
  fullness+=("$((used / (total / 1000 + 1)))")
}

# Keeps the MAX_DISKS fullest of DISKS, in their order. Uses measure_disks' fullness.
keep_fullest() {
  (( ${#DISKS[@]} > MAX_DISKS )) || return
  local i
  local -a kept=()
  while read -r i; do
    kept+=("${DISKS[i]}")
  done < <(for i in "${!DISKS[@]}"; do printf '%s %s\n' "${fullness[i]}" "$i"; done |
    sort -k1,1nr -k2,2n | head -n "$MAX_DISKS" | cut -d' ' -f2 | sort -n)
  DISKS=("${kept[@]}")
}

# measure STATE: everything of one report. A goodbye takes the disks of the last report: it has no
# time to ask them.
measure() {
  STATE=$1
  HOSTNAME_NOW=$HOSTNAME BOOT_ID='' UPTIME=''
  read -r HOSTNAME_NOW <"$PROC_ROOT/sys/kernel/hostname"
  read -r BOOT_ID <"$PROC_ROOT/sys/kernel/random/boot_id"
  read -r UPTIME _ <"$PROC_ROOT/uptime"
  measure_cpu
  measure_memory
  [[ $STATE == Stopping ]] || measure_disks
  printf -v SENT_AT '%(%Y-%m-%dT%H:%M:%SZ)T' -1
} 2>/dev/null

# build_report compact|pretty: REPORT is the JSON. What could not be read is left out: the receiver
# names it, and the heartbeat still counts as contact.
build_report() {
  local -a members=()
  local open='' close='' between=, disk_open='' disk_close='' disks='' disk
  if [[ $1 == pretty ]]; then
    open=$'\n  ' close=$'\n' between=$',\n  ' disk_open=$'\n    ' disk_close=$'\n  '
  fi
  json_string "$HOSTNAME_NOW"
  members+=("\"hostname\":$JSON")
  [[ -n $MACHINE_UUID ]] && members+=("\"machineUUID\":\"$MACHINE_UUID\"")
  [[ ${BOOT_ID,,} =~ $UUID_PATTERN ]] && members+=("\"bootID\":\"${BOOT_ID,,}\"")
  [[ $UPTIME =~ ^[0-9]+(\.[0-9]+)?$ ]] && members+=("\"uptimeSeconds\":$UPTIME")
  members+=("\"state\":\"$STATE\"" "\"supervised\":$SUPERVISED")
  members+=("\"cpuPercent\":$CPU_PERCENT")
  (( MEMORY_TOTAL > 0 )) && members+=("\"memoryUsedBytes\":$MEMORY_USED" "\"memoryTotalBytes\":$MEMORY_TOTAL")
  for disk in "${DISKS[@]}"; do
    disks+=${disks:+,}$disk_open$disk
  done
  members+=("\"disks\":[$disks${disks:+$disk_close}]")
  members+=("\"agentVersion\":\"$AGENT_VERSION\"" "\"sentAt\":\"$SENT_AT\"")
  # The first of these ends the name.
  [[ $1 == pretty ]] && members=("${members[@]/\":/\": }")
  local joined
  printf -v joined "%s$between" "${members[@]}"
  REPORT="{$open${joined%"$between"}$close}"
}

# ---------------------------------------------------------------------------------------------
# 3. Delivery

# The exit status of curl follows its output, since the pipe shows only head's.
# shellcheck disable=SC2016 # expanded by the sh that runs it
readonly CURL_SCRIPT='{ curl "$@" 2>&1; printf "\n%s" "$?"; } | head -c '$MAX_ANSWER_BYTES

# deliver CONNECT_SECONDS REQUEST_SECONDS: sends REPORT. Sets
#   OUTCOME       accepted | rejected (the same again would be refused again) | busy | failed
#   NEXT_SECONDS  what the answer asks for, or empty
#   RETRY_AFTER   seconds, or empty
#   PROBLEM       one line for a person; PROBLEM_KEY changes only when the problem does
deliver() {
  local request
  # The key reaches curl through a pipe, as part of its configuration: an argument or a variable
  # would show in ps. The report goes through another.
  printf -v request 'url = "%s"\nheader = "Authorization: Bearer %s"\n' "$REPORT_URL" "$AGENT_KEY"
  local -a options=(
    -q # no ~/.curlrc
    --silent --show-error --include --globoff
    --proto '=https,http' # and without --location no redirect is followed: it would carry the key
    --connect-timeout "$1" --max-time "$2"
    --user-agent "defib-agent/$AGENT_VERSION"
    --header 'Content-Type: application/json'
    --header 'Accept: application/json, application/problem+json'
    --header 'Expect:' # a report is small: no round trip to ask whether it may be sent
    --data-binary @-
  )
  [[ -n $CA_FILE ]] && options+=(--cacert "$CA_FILE")
  capture "$(($2 + 1))" sh -c "$CURL_SCRIPT" curl -K <(printf '%s' "$request" 2>/dev/null) "${options[@]}" \
    < <(printf '%s' "$REPORT" 2>/dev/null)
  read_answer "$REPLY"
  judge_answer
}

# read_answer OUTPUT: CURL_STATUS, HTTP_STATUS, RETRY_AFTER, LOCATION, ANSWER (the body) and
# CURL_ERROR out of what CURL_SCRIPT printed.
read_answer() {
  local text=${1//$'\r'/} head line
  CURL_STATUS='' HTTP_STATUS='' RETRY_AFTER='' LOCATION='' ANSWER='' CURL_ERROR=''
  line=${text##*$'\n'}
  if [[ $line =~ ^[0-9]{1,3}$ ]]; then
    CURL_STATUS=$line
    text=${text%$'\n'*}
  fi
  [[ $text =~ curl:\ (\([0-9]+\)[^$'\n']*) ]] && CURL_ERROR=${BASH_REMATCH[1]}
  # Interim answers (100) and a proxy's answer to CONNECT come first: the last one counts.
  while [[ $text =~ ^HTTP/[0-9.]+\ ([0-9]{3}) ]]; do
    HTTP_STATUS=${BASH_REMATCH[1]} RETRY_AFTER='' LOCATION=''
    head=${text%%$'\n\n'*}
    ANSWER=${text#"$head"}
    ANSWER=${ANSWER#$'\n\n'}
    while IFS= read -r line; do
      if [[ ${line,,} =~ ^retry-after:[[:space:]]*([0-9]{1,9})[[:space:]]*$ ]]; then
        RETRY_AFTER=$((10#${BASH_REMATCH[1]}))
      elif [[ ${line,,} == location:* ]]; then
        LOCATION=${line#*:}
        LOCATION=${LOCATION# }
      fi
    done < <(printf '%s\n' "$head")
    text=$ANSWER
  done
}

judge_answer() {
  NEXT_SECONDS='' PROBLEM='' PROBLEM_KEY=''
  # Status 23: the answer was longer than what is read of it. Its beginning counts.
  if [[ -z $HTTP_STATUS || ( -n $CURL_STATUS && $CURL_STATUS != 0 && $CURL_STATUS != 23 ) ]]; then
    OUTCOME=failed
    PROBLEM_KEY="curl ${CURL_STATUS:-killed}"
    PROBLEM="$REPORT_URL: ${CURL_ERROR:-no answer in time}"
    [[ $CURL_STATUS == 60 ]] && PROBLEM+=" (own CA: set DEFIB_CA_FILE)"
    return
  fi
  case $HTTP_STATUS in
    2*)
      # A portal or proxy in between may say 200 to everything: only Defib says `accepted`.
      if [[ $ANSWER =~ \"accepted\"[[:space:]]*:[[:space:]]*[1-9] ]]; then
        OUTCOME=accepted
        if [[ $ANSWER =~ \"nextReportSeconds\"[[:space:]]*:[[:space:]]*([0-9]+) ]]; then
          clamp_seconds "${BASH_REMATCH[1]}"
          NEXT_SECONDS=$SECONDS_CLAMPED
        fi
        return
      fi
      OUTCOME=failed
      PROBLEM="$REPORT_URL answered $HTTP_STATUS, but not as Defib does: is this its address?"
      ;;
    3*)
      OUTCOME=rejected
      PROBLEM="$REPORT_URL answered $HTTP_STATUS: redirects are not followed; set DEFIB_URL to where it points (${LOCATION:0:200})"
      ;;
    429 | 503) OUTCOME=busy ;;
    408 | 5*) OUTCOME=failed ;;
    *) OUTCOME=rejected ;;
  esac
  [[ -n $PROBLEM ]] || describe_problem
  PROBLEM_KEY="http $HTTP_STATUS $PROBLEM"
}

# The problem details (RFC 9457) in one line.
describe_problem() {
  local field=''
  json_field field "$ANSWER" && field=$VALUE
  PROBLEM="$REPORT_URL answered $HTTP_STATUS"
  if json_field detail "$ANSWER" || json_field title "$ANSWER"; then
    PROBLEM+=": ${VALUE:0:300}"
  fi
  [[ -n $field ]] && PROBLEM+=" (field: ${field:0:100})"
}

# clamp_seconds DIGITS: SECONDS_CLAMPED is within what a period may be.
clamp_seconds() {
  # More digits than that are no number of seconds, and would overflow.
  if (( ${#1} > 9 )); then SECONDS_CLAMPED=$MAX_REPORT_SECONDS; else SECONDS_CLAMPED=$((10#$1)); fi
  (( SECONDS_CLAMPED < MIN_REPORT_SECONDS )) && SECONDS_CLAMPED=$MIN_REPORT_SECONDS
  (( SECONDS_CLAMPED > MAX_REPORT_SECONDS )) && SECONDS_CLAMPED=$MAX_REPORT_SECONDS
}

# ---------------------------------------------------------------------------------------------
# 4. The loop

FAILURES=0
ACCEPTED_BEFORE=0
LAST_PROBLEM=

report_forever() {
  trap 'say_goodbye' TERM INT HUP
  take_lock
  survive_memory_pressure
  log 6 "version $AGENT_VERSION reports to $REPORT_URL every $PERIOD s, machineUUID ${MACHINE_UUID:-unknown}, supervised: $SUPERVISED"
  start_cpu_window
  while :; do
    # Always a fresh sample: what could not be sent is old news, nobody wants it later.
    measure Running
    build_report compact
    reload_key
    deliver "$CONNECT_SECONDS" "$REQUEST_SECONDS"
    note_outcome
    choose_delay
    pause "$DELAY"
  done
}

# CPU load is the difference of two readings; the first report needs its own pair.
start_cpu_window() {
  measure_cpu
  pause 1000
}

# Says what changed, once: a problem that lasts for a week is one line.
note_outcome() {
  if [[ $OUTCOME == accepted ]]; then
    [[ -n $NEXT_SECONDS ]] && PERIOD=$NEXT_SECONDS
    CPU_BASE=("${CPU_NOW[@]}")
    if (( FAILURES > 0 )); then
      log 6 "reports are accepted again (attempts that failed: $FAILURES)"
    elif (( ! ACCEPTED_BEFORE )); then
      log 6 "first report accepted; period $PERIOD s"
    fi
    FAILURES=0 LAST_PROBLEM=
  else
    (( FAILURES++ ))
    [[ $PROBLEM_KEY == "$LAST_PROBLEM" ]] || log 4 "report not accepted, trying on: $PROBLEM"
    LAST_PROBLEM=$PROBLEM_KEY
  fi
}

# DELAY in milliseconds until the next report.
choose_delay() {
  local period=$((PERIOD * 1000)) wait
  case $OUTCOME in
    accepted)
      if (( ! ACCEPTED_BEFORE )); then
        # VMs of one host start together. A random phase keeps them from reporting together.
        ACCEPTED_BEFORE=1
        random_between $((MIN_REPORT_SECONDS * 1000)) "$period"
      else
        random_between $((period * 9 / 10)) $((period * 11 / 10))
      fi
      DELAY=$RANDOM_VALUE
      return
      ;;
    busy)
      if [[ -n $RETRY_AFTER ]] && (( RETRY_AFTER < PERIOD )); then
        (( RETRY_AFTER < 1 )) && RETRY_AFTER=1
        random_between $((RETRY_AFTER * 1000)) $((RETRY_AFTER * 1100))
        DELAY=$RANDOM_VALUE
        return
      fi
      ;;
  esac
  if [[ $OUTCOME == failed || ( $OUTCOME == busy && -z $RETRY_AFTER ) ]]; then
    # 1, 2, 4 ... s, at most the period. Agents that lost their server together drift apart.
    wait=$((FAILURES > 12 ? period : 1000 << (FAILURES - 1)))
    if (( wait < period )); then
      random_between $((wait * 3 / 4)) "$wait"
      DELAY=$RANDOM_VALUE
      return
    fi
  fi
  # A whole period passes: the next CPU figure is about that period.
  CPU_BASE=("${CPU_NOW[@]}")
  random_between $((period * 9 / 10)) $((period * 11 / 10))
  DELAY=$RANDOM_VALUE
}

# An orderly stop disarms this VM until the next heartbeat. One try: a shutdown does not wait.
say_goodbye() {
  trap '' TERM INT HUP
  [[ -n $CHILD ]] && kill "$CHILD" 2>/dev/null
  measure Stopping
  build_report compact
  deliver "$GOODBYE_SECONDS" "$GOODBYE_SECONDS"
  if [[ $OUTCOME == accepted ]]; then
    log 6 'stopped; Defib was told'
  else
    log 4 "stopped, but Defib could not be told and will see silence: $PROBLEM"
  fi
  exit 0
}

# One agent per configuration: a second one would only confuse. The configuration itself is the
# lock: nothing to clean up, and the kernel frees it when the agent dies.
take_lock() {
  [[ -n $CONFIG_FILE ]] || return
  if ! command -v flock >/dev/null; then
    log 4 'flock (util-linux) is missing: nothing keeps a second agent from starting'
    return
  fi
  exec {LOCK_FD}<&-
  exec {LOCK_FD}<"$CONFIG_FILE"
  flock -n "$LOCK_FD" && return
  [[ $IF_NOT_RUNNING == 1 ]] && exit 0
  fail 1 "an agent with $CONFIG_FILE is already running"
}

# Out of memory the kernel must not choose the one process that can still say so. The systemd unit
# sets this itself; under cron the agent does. By hand it is not our business.
survive_memory_pressure() {
  local score
  [[ $SUPERVISED == true ]] || return
  read -r score </proc/self/oom_score_adj
  (( score > -900 )) && printf '%s' -900 >/proc/self/oom_score_adj
} 2>/dev/null

report_once() {
  start_cpu_window
  measure Running
  build_report compact
  deliver "$CONNECT_SECONDS" "$REQUEST_SECONDS"
  if [[ $OUTCOME == accepted ]]; then
    printf 'accepted by %s; next report in %s s\n' "$REPORT_URL" "${NEXT_SECONDS:-$PERIOD}"
    exit 0
  fi
  fail 1 "report not accepted: $PROBLEM"
}

print_report() {
  read_machine_uuid
  start_cpu_window
  measure Running
  build_report pretty
  printf '%s\n' "$REPORT"
}

# ---------------------------------------------------------------------------------------------
# 5. Configuration

CONFIG_FILE=
CA_FILE=
KEY_FILE=
REPORT_URL=
PERIOD=$DEFAULT_REPORT_SECONDS
IF_NOT_RUNNING=0
readonly SETTINGS=' DEFIB_URL DEFIB_KEY DEFIB_KEY_FILE DEFIB_REPORT_SECONDS DEFIB_CA_FILE '
declare -A CONFIG=()

# read_config FILE: KEY=value lines into CONFIG. Parsed, never run: a configuration is not a script.
read_config() {
  local line name value number=0
  local -a lines=()
  mapfile -t lines 2>/dev/null <"$1" || fail 2 "cannot read $1"
  for line in "${lines[@]}"; do
    (( number++ ))
    trim "${line%$'\r'}"; line=$TRIMMED
    [[ -z $line || $line == \#* ]] && continue
    name=${line%%=*}
    trim "$name"; name=$TRIMMED
    if [[ $line != *=* || $SETTINGS != *" $name "* ]]; then
      # Not the line itself: it may be a key with a mistyped name.
      log 4 "$1, line $number: unknown setting; known are:${SETTINGS% }"
      continue
    fi
    trim "${line#*=}"; value=$TRIMMED
    if [[ $value == \"*\" || $value == \'*\' ]] && (( ${#value} >= 2 )); then
      value=${value:1:${#value}-2}
    fi
    CONFIG[$name]=$value
  done
  [[ -n ${CONFIG[DEFIB_KEY]} ]] && warn_if_readable "$1"
}

trim() {
  TRIMMED=${1#"${1%%[![:space:]]*}"}
  TRIMMED=${TRIMMED%"${TRIMMED##*[![:space:]]}"}
}

# warn_if_readable FILE: it holds a key, so it is its owner's alone.
warn_if_readable() {
  local mode
  mode=$(stat -L -c %a -- "$1" 2>/dev/null)
  [[ $mode =~ ^[0-7]+$ ]] && (( 8#$mode & 8#077 )) &&
    log 4 "$1 holds a key, but its mode is $mode: chmod 0600 $1"
}

# The environment wins over the file: it is set for this one start.
load_settings() {
  if [[ -z $CONFIG_FILE && -e $DEFAULT_CONFIG ]]; then CONFIG_FILE=$DEFAULT_CONFIG; fi
  [[ -n $CONFIG_FILE ]] && read_config "$CONFIG_FILE"
  local url=${DEFIB_URL:-${CONFIG[DEFIB_URL]}}
  local seconds=${DEFIB_REPORT_SECONDS:-${CONFIG[DEFIB_REPORT_SECONDS]}}
  CA_FILE=${DEFIB_CA_FILE:-${CONFIG[DEFIB_CA_FILE]}}
  KEY_FILE=${DEFIB_KEY_FILE:-${CONFIG[DEFIB_KEY_FILE]}}
  AGENT_KEY=${DEFIB_KEY:-${CONFIG[DEFIB_KEY]}}
  # What is exported shows in the environment of every child.
  export -n DEFIB_KEY
  unset 'CONFIG[DEFIB_KEY]'

  check_url "$url"
  REPORT_URL=${url%/}/api/health/report
  [[ $url == http://* ]] && log 4 "$url is not encrypted: anyone on the way can read the key"
  if [[ -n $seconds ]]; then
    [[ $seconds =~ ^[0-9]+$ ]] || fail 2 "DEFIB_REPORT_SECONDS is '$seconds': give whole seconds"
    clamp_seconds "$seconds"
    PERIOD=$SECONDS_CLAMPED
    (( 10#${seconds:0:9} == PERIOD )) || log 4 "DEFIB_REPORT_SECONDS is $seconds: using $PERIOD"
  fi
  [[ -z $CA_FILE || -r $CA_FILE ]] || fail 2 "DEFIB_CA_FILE $CA_FILE cannot be read"
  if [[ -n $KEY_FILE && -z $AGENT_KEY ]]; then
    [[ -r $KEY_FILE ]] || fail 2 "DEFIB_KEY_FILE $KEY_FILE cannot be read"
    warn_if_readable "$KEY_FILE"
    reload_key
  else
    KEY_FILE=
  fi
  check_key "$AGENT_KEY" || fail 2 "no key, or one with odd characters: set DEFIB_KEY or DEFIB_KEY_FILE (the key is shown by 'defib key <namespace>/<vm>')"
}

check_url() {
  # The characters excluded here would end the quoted string in curl's configuration.
  [[ $1 =~ ^https?://[^[:space:]/]+ && $1 != *[[:cntrl:][:space:]\"\\@?#]* ]] ||
    fail 2 "DEFIB_URL is '$1': give Defib's address, such as https://defib.example.com"
}

# A key is a bearer token (RFC 6750, b64token).
check_key() {
  [[ $1 =~ ^[A-Za-z0-9._~+/-]+=*$ ]]
}

# A key file that was replaced counts from the next report on: rotation needs no restart.
reload_key() {
  local key
  [[ -n $KEY_FILE ]] || return
  IFS=$' \t\r' read -r key 2>/dev/null <"$KEY_FILE"
  check_key "$key" && AGENT_KEY=$key
}

need() {
  local tool
  for tool; do
    command -v "$tool" >/dev/null || fail 2 "$tool is missing: install it first"
  done
}

# ---------------------------------------------------------------------------------------------
# 6. Install, uninstall

readonly PROGRAM_PATH=/usr/local/sbin/defib-agent
readonly UNIT_NAME=defib-agent.service
readonly UNIT_PATH=/etc/systemd/system/$UNIT_NAME
readonly WANTS_PATH=/etc/systemd/system/multi-user.target.wants/$UNIT_NAME
readonly CRON_PATH=/etc/cron.d/defib-agent
# Below this directory instead of /: for images and tests. Nothing is started then.
INSTALL_ROOT=${DEFIB_INSTALL_ROOT%/}
INSTALL_URL='' INSTALL_KEY_FILE='' INSTALL_CA_FILE='' INSTALL_SECONDS=''

need_root() {
  (( EUID == 0 )) || [[ -n $INSTALL_ROOT ]] || fail 1 'this needs root'
}

has_systemd() {
  [[ -d $INSTALL_ROOT/run/systemd/system ]]
}

install_agent() {
  need_root
  need curl timeout stat head
  local source=${BASH_SOURCE[0]} key='' config=$INSTALL_ROOT$DEFAULT_CONFIG
  [[ -f $source ]] || fail 2 'save this script to a file first: --install copies it'
  [[ -z $INSTALL_URL ]] || check_url "$INSTALL_URL"
  [[ -z $INSTALL_SECONDS || $INSTALL_SECONDS =~ ^[0-9]{1,9}$ ]] || fail 2 '--report-seconds needs whole seconds'
  [[ -z $INSTALL_CA_FILE || $INSTALL_CA_FILE == /* ]] || fail 2 '--ca-file needs an absolute path'
  # Before anything is written: a half installed agent helps nobody.
  if ! has_systemd && [[ ! -d $INSTALL_ROOT/etc/cron.d ]]; then
    fail 1 "neither systemd nor $INSTALL_ROOT/etc/cron.d here. Let your init system run: $PROGRAM_PATH --supervised"
  fi
  read_install_key
  write_config "$config" "$key"
  put_file "$INSTALL_ROOT$PROGRAM_PATH" 0755 <"$source"
  if has_systemd; then install_unit; else install_cron; fi
  printf 'Look at what is sent:   %s --print\nTry one report:         %s --once\n' "$PROGRAM_PATH" "$PROGRAM_PATH"
}

make_directory() {
  (umask 022 && mkdir -p -- "$1") || fail 1 "cannot make $1"
}

# put_file PATH MODE: standard input becomes PATH in one step. The old file stays whole for an
# agent that runs from it; created where it ends, it gets the right SELinux label.
put_file() {
  make_directory "${1%/*}"
  if ! { cat >"$1.new" && chmod "$2" "$1.new" && mv -f -- "$1.new" "$1"; }; then
    fail 1 "cannot write $1"
  fi
  printf 'wrote %s\n' "$1"
}

# The key comes from --key-file or from standard input; none keeps the one that is there.
read_install_key() {
  if [[ -n $INSTALL_KEY_FILE ]]; then
    [[ -r $INSTALL_KEY_FILE ]] || fail 2 "cannot read $INSTALL_KEY_FILE"
    IFS=$' \t\r' read -r key <"$INSTALL_KEY_FILE"
  elif [[ ! -t 0 ]]; then
    # A pipe that nobody writes to must not hang an installation.
    IFS=$' \t\r' read -r -t 10 key
  fi
  [[ -z $key ]] || check_key "$key" || fail 2 'that is not a key: it has characters that no key has'
}

# write_config FILE KEY: sets what was given, keeps every other line.
write_config() {
  local line name text=''
  local -a lines=()
  local -A set=()
  [[ -n $INSTALL_URL ]] && set[DEFIB_URL]=$INSTALL_URL
  [[ -n $2 ]] && set[DEFIB_KEY]=$2
  [[ -n $INSTALL_CA_FILE ]] && set[DEFIB_CA_FILE]=$INSTALL_CA_FILE
  [[ -n $INSTALL_SECONDS ]] && set[DEFIB_REPORT_SECONDS]=$INSTALL_SECONDS
  if [[ -e $1 ]]; then
    mapfile -t lines 2>/dev/null <"$1" || fail 1 "cannot read $1"
  else
    lines=('# Defib agent. KEY=value; read at start.')
  fi
  for line in "${lines[@]}"; do
    trim "${line%%=*}"; name=$TRIMMED
    if [[ $line == *=* && -n ${set[$name]} ]]; then
      line=$name=${set[$name]}
      unset "set[$name]"
    elif [[ $name == DEFIB_KEY_FILE && -n $2 ]]; then
      continue # replaced by the key itself
    fi
    text+=$line$'\n'
  done
  for name in DEFIB_URL DEFIB_KEY DEFIB_CA_FILE DEFIB_REPORT_SECONDS; do
    [[ -n ${set[$name]} ]] && text+=$name=${set[$name]}$'\n'
  done
  [[ $'\n'$text == *$'\n'DEFIB_URL=?* ]] || fail 2 '--install needs --url the first time'
  [[ $'\n'$text == *$'\n'DEFIB_KEY=?* || $'\n'$text == *$'\n'DEFIB_KEY_FILE=?* ]] ||
    fail 2 '--install needs the key the first time: on standard input, or --key-file FILE'
  put_file "$1" 0600 < <(printf '%s' "$text")
}

unit_text() {
  cat <<UNIT
# Written by $PROGRAM_PATH --install; own settings: systemctl edit $UNIT_NAME
[Unit]
Description=Defib agent: tells Defib that this machine is alive
# For the way down: stopped, and its goodbye sent, while the network still works. On the way up it
# does not wait for the network, it retries.
After=network.target nss-lookup.target
StartLimitIntervalSec=0

[Service]
ExecStart=$PROGRAM_PATH --supervised --config $DEFAULT_CONFIG
Restart=always
RestartSec=5
# Only the agent gets the signal, so that it can send its goodbye (at most 3 s).
KillMode=mixed
TimeoutStopSec=10
# Under pressure the heartbeat comes last to suffer.
OOMScoreAdjust=-900
Nice=-5

# It reads /proc, /sys and its configuration, and writes nothing. It runs as root because only root
# may read the SMBIOS uuid; of root's powers it keeps the one to reach a mount below a private
# directory.
CapabilityBoundingSet=CAP_DAC_READ_SEARCH
NoNewPrivileges=yes
ProtectSystem=strict
ProtectHome=read-only
PrivateDevices=yes
ProtectKernelTunables=yes
ProtectKernelModules=yes
ProtectKernelLogs=yes
ProtectControlGroups=yes
ProtectClock=yes
RestrictAddressFamilies=AF_UNIX AF_INET AF_INET6 AF_NETLINK
RestrictNamespaces=yes
RestrictRealtime=yes
RestrictSUIDSGID=yes
LockPersonality=yes
SystemCallArchitectures=native
# A list of what is denied: old versions of systemd skip names they do not know, which would turn a
# list of what is allowed into nothing at all.
SystemCallFilter=~@clock @cpu-emulation @debug @module @mount @obsolete @raw-io @reboot @swap
UMask=0077

[Install]
WantedBy=multi-user.target
UNIT
}

install_unit() {
  put_file "$INSTALL_ROOT$UNIT_PATH" 0644 < <(unit_text)
  remove_file "$CRON_PATH"
  if [[ -n $INSTALL_ROOT ]]; then
    make_directory "$INSTALL_ROOT${WANTS_PATH%/*}"
    ln -sfn "$UNIT_PATH" "$INSTALL_ROOT$WANTS_PATH" || fail 1 "cannot enable $UNIT_NAME"
    printf 'enabled %s; it starts at boot\n' "$UNIT_NAME"
    return
  fi
  local step
  for step in daemon-reload "--quiet enable $UNIT_NAME" "restart $UNIT_NAME"; do
    # shellcheck disable=SC2086 # words on purpose
    systemctl $step || fail 1 "systemd did not start it: systemctl status $UNIT_NAME"
  done
  printf 'started %s; its log: journalctl -u %s\n' "$UNIT_NAME" "$UNIT_NAME"
}

cron_text() {
  local run="$PROGRAM_PATH --supervised --if-not-running --config $DEFAULT_CONFIG 2>&1 | logger -t defib-agent"
  cat <<CRON
# Written by $PROGRAM_PATH --install. Every minute: an agent that died is started again.
SHELL=/bin/sh
PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
@reboot root $run
* * * * * root $run
CRON
}

install_cron() {
  put_file "$INSTALL_ROOT$CRON_PATH" 0644 < <(cron_text)
  stop_running
  printf 'no systemd here: cron starts the agent within a minute; its log: syslog, tag defib-agent\n'
}

# Ends the agents that run from the installed path, as cron has no notion of stopping.
stop_running() {
  local directory word pid _
  local -a words=() pids=()
  for directory in /proc/[0-9]*; do
    words=()
    while IFS= read -r -d '' word; do words+=("$word"); done 2>/dev/null <"$directory/cmdline"
    # argv of a script: the interpreter, then the script
    [[ ${words[1]} == "$INSTALL_ROOT$PROGRAM_PATH" && " ${words[*]:2} " == *' --supervised '* ]] || continue
    pids+=("${directory##*/}")
  done
  (( ${#pids[@]} > 0 )) || return
  kill "${pids[@]}" 2>/dev/null
  # The goodbye takes at most 3 s; more than that is not waited for.
  for _ in {1..50}; do
    kill -0 "${pids[@]}" 2>/dev/null || break
    sleep 0.1
  done
  for pid in "${pids[@]}"; do printf 'stopped the running agent (pid %s)\n' "$pid"; done
}

remove_file() {
  local path=$INSTALL_ROOT$1
  [[ -e $path || -L $path ]] || return
  rm -f -- "$path" || fail 1 "cannot remove $path"
  printf 'removed %s\n' "$path"
}

uninstall_agent() {
  need_root
  if [[ -z $INSTALL_ROOT && -e $UNIT_PATH ]] && has_systemd; then
    systemctl --quiet disable --now "$UNIT_NAME" && printf 'stopped %s\n' "$UNIT_NAME"
  fi
  remove_file "$CRON_PATH"
  stop_running
  remove_file "$WANTS_PATH"
  remove_file "$UNIT_PATH"
  [[ -z $INSTALL_ROOT ]] && has_systemd && systemctl daemon-reload
  remove_file "$DEFAULT_CONFIG"
  rmdir -- "$INSTALL_ROOT${DEFAULT_CONFIG%/*}" 2>/dev/null
  remove_file "$PROGRAM_PATH"
  printf 'Defib now sees this VM as stopped in order; delete its ManagedVM to forget it.\n'
}

# ---------------------------------------------------------------------------------------------

usage() {
  cat <<USAGE
Defib's agent for Linux, version $AGENT_VERSION: tells Defib every few seconds that this machine is alive.

  linux-agent.sh [--config FILE] [--supervised]     report until stopped
  linux-agent.sh --once [--config FILE]             one report; exit 0 if accepted, else 1 and the reason
  linux-agent.sh --print                            show a report, send nothing
  linux-agent.sh --install --url URL < key          install and start (root); again: upgrade, keeps the key
  linux-agent.sh --uninstall                        stop and remove everything (root)
  linux-agent.sh --version | --help

  --config FILE        settings (default $DEFAULT_CONFIG)
  --supervised         an init system restarts this agent; only then its silence can lead to a reset
  --if-not-running     exit 0 silently when an agent with this configuration runs already
  --key-file FILE      with --install: read the key from FILE instead of standard input
  --ca-file FILE       with --install: the CA that signed Defib's certificate
  --report-seconds N   with --install: period until Defib says otherwise (default $DEFAULT_REPORT_SECONDS)

Settings, KEY=value in the file or in the environment: DEFIB_URL, DEFIB_KEY or DEFIB_KEY_FILE,
DEFIB_REPORT_SECONDS, DEFIB_CA_FILE. Environment only: DEFIB_PROC_ROOT, DEFIB_SYS_ROOT (where /proc
and /sys are), DEFIB_INSTALL_ROOT, and the proxy variables of curl.
USAGE
}

main() {
  local mode=run
  while (( $# > 0 )); do
    # --option=value is the same as --option value
    if [[ $1 == --*=* ]]; then set -- "${1%%=*}" "${1#*=}" "${@:2}"; fi
    case $1 in
      --config | --url | --key-file | --ca-file | --report-seconds)
        [[ -n $2 ]] || fail 2 "$1 needs a value"
        case $1 in
          --config) CONFIG_FILE=$2 ;;
          --url) INSTALL_URL=$2 ;;
          --key-file) INSTALL_KEY_FILE=$2 ;;
          --ca-file) INSTALL_CA_FILE=$2 ;;
          --report-seconds) INSTALL_SECONDS=$2 ;;
        esac
        shift
        ;;
      --supervised) SUPERVISED=true ;;
      --if-not-running) IF_NOT_RUNNING=1 ;;
      --once | --print | --install | --uninstall) mode=${1#--} ;;
      --version) printf 'defib-agent %s\n' "$AGENT_VERSION"; exit 0 ;;
      --help | -h) usage; exit 0 ;;
      *) fail 2 "unknown option $1; see --help" ;;
    esac
    shift
  done
  started_by_systemd && SUPERVISED=true

  case $mode in
    install) install_agent ;;
    uninstall) uninstall_agent ;;
    print)
      need timeout stat
      print_report
      ;;
    *)
      need curl timeout stat head
      load_settings
      read_machine_uuid
      if [[ $mode == once ]]; then report_once; else report_forever; fi
      ;;
  esac
}

# Sourced (by tests): only the functions. The last line, so that bash has read everything before it
# runs anything: an upgrade replaces this file under a running agent.
if [[ ${BASH_SOURCE[0]:-$0} == "$0" ]]; then main "$@"; exit; fi
