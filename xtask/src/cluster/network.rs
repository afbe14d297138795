//! The node's own network: an address that only this machine has, the pods' bridge, and the removal of
//! all that was put into the machine's tables.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result};

use super::{BRIDGE, NODE_DEVICE, NODE_IP};
use crate::run::{command, output, run, succeeds};

/// The device that carries the node's address: a bridge with no ports, since every kernel that can run
/// pods has bridges. What listens on it cannot be reached from another machine.
pub(super) fn up() -> Result<()> {
    if !succeeds(&mut command("ip", ["link", "show", NODE_DEVICE])) {
        output(&mut command("ip", ["link", "add", NODE_DEVICE, "type", "bridge"]))?;
        output(&mut command("ip", ["address", "add", &format!("{NODE_IP}/32"), "dev", NODE_DEVICE]))?;
    }
    output(&mut command("ip", ["link", "set", NODE_DEVICE, "up"]))?;
    switch_on("net/ipv4/ip_forward")?;
    // Where the kernel has bridge filters at all, a Service's address from a pod on the bridge needs them.
    if Path::new("/proc/sys/net/bridge/bridge-nf-call-iptables").exists() {
        switch_on("net/bridge/bridge-nf-call-iptables")?;
    }
    Ok(())
}

/// Removes devices, rules and addresses; what is not there is no error.
pub(super) fn down() -> Result<()> {
    for device in [BRIDGE, NODE_DEVICE] {
        if succeeds(&mut command("ip", ["link", "show", device])) {
            output(&mut command("ip", ["link", "delete", device]))?;
        }
    }
    for family in ["iptables", "ip6tables"] {
        remove_rules(family)?;
    }
    Ok(())
}

fn switch_on(setting: &str) -> Result<()> {
    let path = Path::new("/proc/sys").join(setting);
    let now = fs::read_to_string(&path).with_context(|| format!("read {}", path.display()))?;
    if now.trim() == "1" {
        return Ok(());
    }
    fs::write(&path, "1").with_context(|| format!("switch on {}", path.display()))
}

/// kube-proxy, kubelet and the network plugins name their chains so.
const CHAINS: [&str; 2] = ["KUBE-", "CNI-"];

fn remove_rules(family: &str) -> Result<()> {
    let saved = output(&mut command(format!("{family}-save"), [] as [&str; 0]))?;
    let removal = removal(&saved);
    if removal.is_empty() {
        return Ok(());
    }
    let script = std::env::temp_dir().join(format!("funcatron-{family}-{}", std::process::id()));
    fs::write(&script, removal).with_context(|| format!("write {}", script.display()))?;
    let restored = run(command(format!("{family}-restore"), ["--noflush"]).arg(&script));
    fs::remove_file(&script).with_context(|| format!("remove {}", script.display()))?;
    restored
}

/// What `iptables-restore --noflush` must read to delete, of the saved tables, the chains of the
/// cluster and every rule that leads to them, and nothing else.
fn removal(saved: &str) -> String {
    let mut script = String::new();
    let mut table = Table::default();
    for line in saved.lines() {
        if line.starts_with('*') {
            table = Table { name: line.to_owned(), ..Table::default() };
        } else if let Some(chain) = line.strip_prefix(':') {
            let chain = chain.split(' ').next().unwrap_or_default();
            if is_ours(chain) {
                table.chains.push(chain.to_owned());
            }
        } else if let Some(rule) = line.strip_prefix("-A ") {
            let in_ours = is_ours(rule);
            // A rule in a chain of ours goes with the chain.
            if !in_ours && rule.split(' ').any(is_ours) {
                table.rules.push(rule.to_owned());
            }
        } else if line == "COMMIT" {
            script += &table.removal();
        }
    }
    script
}

fn is_ours(word: &str) -> bool {
    CHAINS.iter().any(|prefix| word.starts_with(prefix))
}

#[derive(Debug, Default)]
struct Table {
    name: String,
    chains: Vec<String>,
    rules: Vec<String>,
}

impl Table {
    fn removal(&self) -> String {
        if self.chains.is_empty() && self.rules.is_empty() {
            return String::new();
        }
        let rules = self.rules.iter().map(|rule| format!("-D {rule}\n"));
        // Chains jump to one another: all are emptied before the first is deleted.
        let emptied = self.chains.iter().map(|chain| format!("-F {chain}\n"));
        let deleted = self.chains.iter().map(|chain| format!("-X {chain}\n"));
        let body: String = rules.chain(emptied).chain(deleted).collect();
        format!("{}\n{body}COMMIT\n", self.name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SAVED: &str = "\
*nat
:PREROUTING ACCEPT [0:0]
:KUBE-SERVICES - [0:0]
:KUBE-MARK-MASQ - [0:0]
:DOCKER - [0:0]
-A PREROUTING -m comment --comment \"kubernetes service portals\" -j KUBE-SERVICES
-A PREROUTING -j DOCKER
-A KUBE-SERVICES -j KUBE-MARK-MASQ
COMMIT
*filter
:INPUT ACCEPT [0:0]
-A INPUT -j ACCEPT
COMMIT
";

    #[test]
    fn only_the_clusters_chains_and_the_ways_to_them_are_removed() {
        let expected = "\
*nat
-D PREROUTING -m comment --comment \"kubernetes service portals\" -j KUBE-SERVICES
-F KUBE-SERVICES
-F KUBE-MARK-MASQ
-X KUBE-SERVICES
-X KUBE-MARK-MASQ
COMMIT
";
        assert_eq!(removal(SAVED), expected);
    }

    #[test]
    fn a_machine_without_our_chains_is_left_alone() {
        assert_eq!(removal("*nat\n:DOCKER - [0:0]\n-A DOCKER -j RETURN\nCOMMIT\n"), "");
    }
}
