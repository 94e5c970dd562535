"""Names of the ATT&CK (Enterprise) techniques that our signatures and rules speak of."""

import re

PATTERN = re.compile(r"^T\d{4}(\.\d{3})?$")

NAMES: dict[str, str] = {
    "T1003.008": "/etc/passwd and /etc/shadow",
    "T1014": "Rootkit",
    "T1027": "Obfuscated Files or Information",
    "T1027.002": "Software Packing",
    "T1027.010": "Command Obfuscation",
    "T1033": "System Owner/User Discovery",
    "T1037.004": "RC Scripts",
    "T1046": "Network Service Discovery",
    "T1053.003": "Cron",
    "T1055.008": "Ptrace System Calls",
    "T1059": "Command and Scripting Interpreter",
    "T1059.004": "Unix Shell",
    "T1059.006": "Python",
    "T1070": "Indicator Removal",
    "T1070.002": "Clear Linux or Mac System Logs",
    "T1070.003": "Clear Command History",
    "T1070.004": "File Deletion",
    "T1071": "Application Layer Protocol",
    "T1071.001": "Web Protocols",
    "T1071.004": "DNS",
    "T1082": "System Information Discovery",
    "T1090.003": "Multi-hop Proxy",
    "T1095": "Non-Application Layer Protocol",
    "T1098.004": "SSH Authorized Keys",
    "T1105": "Ingress Tool Transfer",
    "T1110": "Brute Force",
    "T1110.001": "Password Guessing",
    "T1136.001": "Local Account",
    "T1140": "Deobfuscate/Decode Files or Information",
    "T1485": "Data Destruction",
    "T1486": "Data Encrypted for Impact",
    "T1496": "Resource Hijacking",
    "T1497.001": "System Checks",
    "T1499": "Endpoint Denial of Service",
    "T1543.002": "Systemd Service",
    "T1546.004": "Unix Shell Configuration Modification",
    "T1547.006": "Kernel Modules and Extensions",
    "T1547.013": "XDG Autostart Entries",
    "T1548.001": "Setuid and Setgid",
    "T1552.001": "Credentials In Files",
    "T1552.004": "Private Keys",
    "T1562.001": "Disable or Modify Tools",
    "T1562.004": "Disable or Modify System Firewall",
    "T1564.001": "Hidden Files and Directories",
    "T1571": "Non-Standard Port",
    "T1611": "Escape to Host",
    "T1620": "Reflective Code Loading",
    "T1622": "Debugger Evasion",
    "T1574.006": "Dynamic Linker Hijacking",
}


def valid(identifiers: list[str]) -> tuple[str, ...]:
    """Those that are technique identifiers, each once, in their order."""
    return tuple(dict.fromkeys(name for name in identifiers if PATTERN.match(name)))
