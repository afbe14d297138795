//! Resource amounts in Kubernetes' words.

use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::schema;

/// Limits and requests of a container.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, PartialEq, Default)]
pub struct ResourceLimits {
    /// The most it may use.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limits: Option<ResourceAmounts>,
    /// What is set aside for it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub requests: Option<ResourceAmounts>,
}

/// Amounts by resource.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, PartialEq, Default)]
pub struct ResourceAmounts {
    /// Bytes, as `128Mi`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::quantity")]
    pub memory: Option<Quantity>,
    /// Cores, as `500m`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::quantity")]
    pub cpu: Option<Quantity>,
}

/// The bytes of a Kubernetes quantity, rounded up as the kubelet does; `None` where it is none, or negative.
pub fn memory_bytes(quantity: &str) -> Option<u64> {
    let split = quantity.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(quantity.len());
    let (number, unit) = quantity.split_at(split);
    let (numerator, denominator) = factor(unit)?;
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    if whole.is_empty() && fraction.is_empty() || fraction.contains('.') {
        return None;
    }
    let fraction = fraction.trim_end_matches('0');
    // Beyond nine digits a fraction says nothing of bytes, and the sums below stay within 128 bits.
    if whole.len() > DIGITS_MAX || fraction.len() > FRACTION_DIGITS_MAX {
        return None;
    }
    let scale = 10_u128.pow(u32::try_from(fraction.len()).ok()?);
    let digits: u128 = format!("0{whole}{fraction}").parse().ok()?;
    u64::try_from((digits * numerator).div_ceil(scale * denominator)).ok()
}

const DIGITS_MAX: usize = 18;
const FRACTION_DIGITS_MAX: usize = 9;

/// What a unit multiplies with, and divides by.
fn factor(unit: &str) -> Option<(u128, u128)> {
    const DECIMAL: [&str; 6] = ["k", "M", "G", "T", "P", "E"];
    const BINARY: [&str; 6] = ["Ki", "Mi", "Gi", "Ti", "Pi", "Ei"];
    let power = |units: &[&str], base: u128| {
        units.iter().zip(1..).find(|(u, _)| **u == unit).map(|(_, exponent)| base.pow(exponent))
    };
    if unit.is_empty() {
        return Some((1, 1));
    }
    if unit == "m" {
        return Some((1, 1000));
    }
    if let Some(exponent) = unit.strip_prefix(['e', 'E']).filter(|e| !e.is_empty()) {
        let exponent: u32 = exponent.strip_prefix('+').unwrap_or(exponent).parse().ok()?;
        return (exponent <= 18).then(|| (10_u128.pow(exponent), 1));
    }
    power(&DECIMAL, 1000).or_else(|| power(&BINARY, 1024)).map(|factor| (factor, 1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantities_are_read_as_kubernetes_reads_them() {
        for (quantity, bytes) in [
            ("0", 0),
            ("128Mi", 128 << 20),
            ("1Gi", 1 << 30),
            ("1.5Gi", 3 << 29),
            ("64M", 64_000_000),
            ("1k", 1000),
            ("1e6", 1_000_000),
            ("1E6", 1_000_000),
            ("1e+3", 1000),
            ("1E", 1_000_000_000_000_000_000),
            ("1500m", 2),
            (".5Ki", 512),
            ("1.", 1),
            ("134217728", 134_217_728),
        ] {
            assert_eq!(memory_bytes(quantity), Some(bytes), "{quantity}");
        }
    }

    #[test]
    fn what_is_no_amount_is_refused() {
        let long = "9".repeat(40);
        for quantity in
            ["", ".", "Mi", "-1", "1 Mi", "1mi", "1.2.3", "1e", "1e-3", "1e99", "100Ei", "1KB", &long]
        {
            assert_eq!(memory_bytes(quantity), None, "{quantity}");
        }
    }
}
