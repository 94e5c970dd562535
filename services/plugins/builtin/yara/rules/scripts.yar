rule downloads_and_runs
{
    meta:
        description = "Fetches something from the network and hands it to a shell or makes it executable"
        severity = 60
        attack = "T1105"
    strings:
        $piped = /(curl|wget)[^\n|;]{1,300}\|\s*(sudo\s+)?(ba|da)?sh\b/
        $fetch = /(curl|wget|tftp|ftpget)\s[^\n]{1,300}/
        $chmod = /chmod\s+(\+x|[0-7]{0,1}7[0-7]{2})\s/
    condition:
        $piped or ($fetch and $chmod)
}

rule shell_reverse_shell
{
    meta:
        description = "Connects a shell to a remote address"
        severity = 85
        attack = "T1059.004"
    strings:
        $dev_tcp = /\/dev\/(tcp|udp)\/[^\s]{1,200}\/[0-9$]/
        $netcat = /\b(nc|ncat|netcat)\b[^\n]{0,100}\s-(e|c)\s+(\/bin\/)?(ba|da)?sh/
        $fifo = /mkfifo[^\n]{1,200}\|\s*(nc|ncat|telnet)\b/
    condition:
        any of them
}

rule python_reverse_shell
{
    meta:
        description = "Python that gives its standard streams to a socket and starts a shell"
        severity = 85
        attack = "T1059.006"
    strings:
        $socket = "socket.socket("
        $dup = /os\.dup2\(\s*\w+\.fileno\(\)\s*,\s*[012]\s*\)/
        $shell = /(pty\.spawn|subprocess\.(call|Popen|run)|os\.(system|execl|execv))\(/
    condition:
        $socket and $dup and $shell
}

rule python_runs_encoded_code
{
    meta:
        description = "Python that decodes text and executes the outcome"
        severity = 65
        attack = "T1027.010"
    strings:
        $direct = /exec\(\s*(compile\(\s*)?(__import__\(['"](base64|zlib|marshal)['"]\)|base64|zlib|marshal|codecs)\./
        $lambda = /exec\(\s*\(_\)\(b?['"]/
        $nested = /(exec|eval)\([^\n]{0,80}(b64decode|a85decode|decompress|fromhex)\(/
    condition:
        any of them
}

rule shell_runs_encoded_code
{
    meta:
        description = "A shell that decodes text and executes the outcome"
        severity = 65
        attack = "T1140"
    strings:
        $piped = /base64\s+(-d|-D|--decode)[^\n]{0,200}\|\s*(ba|da)?sh\b/
        $eval = /eval\s+["'`$(][^\n]{0,200}base64\s+(-d|-D|--decode)/
        $xxd = /xxd\s+-r[^\n]{0,200}\|\s*(ba|da)?sh\b/
    condition:
        any of them
}

rule clears_traces
{
    meta:
        description = "Removes or silences the records of what was done"
        severity = 55
        attack = "T1070"
    strings:
        $history = /(unset\s+HISTFILE|HISTFILE=\/dev\/null|history\s+-c\b|HISTSIZE=0)/
        $logs = /(rm\s+-[rf]{1,2}\s+|>\s*|truncate\s+-s\s*0\s+)\/var\/log\//
    condition:
        any of them
}
