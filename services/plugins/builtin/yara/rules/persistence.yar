rule persists_in_cron
{
    meta:
        description = "Writes a scheduled job"
        severity = 55
        attack = "T1053.003"
    strings:
        $crontab = /\|\s*crontab(\s+-)?(\s|$)/
        $directory = /\/etc\/cron\.(d|hourly|daily|weekly)\//
        $spool = "/var/spool/cron"
        $at_boot = "@reboot "
    condition:
        any of them
}

rule persists_in_systemd
{
    meta:
        description = "Installs a service of its own"
        severity = 55
        attack = "T1543.002"
    strings:
        $unit = /\/(etc|lib|usr\/lib)\/systemd\/system\/[\w@.-]{1,80}\.(service|timer)/
        $user_unit = ".config/systemd/user/"
        $enable = /systemctl\s+(--user\s+)?(enable|daemon-reload)/
        $section = "[Install]"
    condition:
        ($unit or $user_unit) and ($enable or $section)
}

rule persists_in_shell_profile
{
    meta:
        description = "Appends to a file that every shell reads"
        severity = 50
        attack = "T1546.004"
    strings:
        $append = />>\s*["']?(~|\$HOME|\$\{HOME\}|\/root|\/home\/[^\/\s]{1,64})\/\.(bashrc|profile|bash_profile|zshrc)/
        $system = />>\s*["']?\/etc\/(profile|bash\.bashrc)/
    condition:
        any of them
}

rule hijacks_the_loader
{
    meta:
        description = "Names a library that the loader puts into every process"
        severity = 75
        attack = "T1574.006"
    strings:
        $preload = "/etc/ld.so.preload"
    condition:
        $preload
}

rule plants_an_ssh_key
{
    meta:
        description = "Adds a key that may log in"
        severity = 60
        attack = "T1098.004"
    strings:
        $file = ".ssh/authorized_keys"
        $key = /ssh-(rsa|ed25519|dss)\s+AAAA/
        $append = />>?[^\n]{0,80}authorized_keys/
    condition:
        $file and ($key or $append)
}
