"""The facts of a Mac."""

from __future__ import annotations

from ansible.module_utils.basic import AnsibleModule

module = AnsibleModule(
    {"gather_subset": {}, "gather_timeout": {}, "filter": {}, "fact_path": {}}, supports_check_mode=True
)
module.exit_json(
    ansible_facts={
        "ansible_system": "Darwin",
        "ansible_os_family": "Darwin",
        "ansible_distribution": "MacOSX",
        "ansible_distribution_version": "14.5",
        "ansible_architecture": "arm64",
        "ansible_pkg_mgr": "homebrew",
        "ansible_service_mgr": "launchd",
    }
)
