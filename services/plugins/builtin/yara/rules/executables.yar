rule packed_with_upx
{
    meta:
        description = "An executable packed with UPX"
        severity = 35
        attack = "T1027.002"
    strings:
        $magic = "UPX!"
        $words = "This file is packed with the UPX executable packer"
    condition:
        (uint32(0) == 0x464C457F or uint16(0) == 0x5A4D) and ($words or #magic >= 2)
}

rule mines_cryptocurrency
{
    meta:
        description = "Speaks to a mining pool"
        severity = 70
        attack = "T1496"
    strings:
        $stratum = /stratum\+(tcp|ssl|tls):\/\//
        $method = "mining.subscribe"
        $submit = "mining.submit"
        $donate = "donate-level"
        $xmrig = "xmrig" nocase
        $randomx = "randomx" nocase
    condition:
        $stratum or ($method and $submit) or 2 of ($donate, $xmrig, $randomx)
}

rule loads_a_kernel_module
{
    meta:
        description = "Puts code into the kernel"
        severity = 70
        attack = "T1547.006"
    strings:
        $insmod = /\b(insmod|modprobe)\s+[^\s]{1,200}/
        $call = "finit_module"
        $hidden = "hide_module"
    condition:
        any of them
}

rule names_a_botnet_default
{
    meta:
        description = "Lists default passwords of devices, as worms of the Mirai kind do"
        severity = 80
        attack = "T1110.001"
    strings:
        $a = "xc3511"
        $b = "vizxv"
        $c = "7ujMko0admin"
        $d = "juantech"
        $e = "klv123"
        $f = "Zte521"
    condition:
        3 of them
}
