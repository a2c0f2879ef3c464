//! How much is a quantity of Kubernetes'?

use k8s_openapi::apimachinery::pkg::api::resource::Quantity;

/// Its number: bytes for memory, cores for CPUs. Nothing if it is none.
#[must_use]
pub fn number(quantity: &Quantity) -> Option<f64> {
    let text = quantity.0.trim();
    // `1e3` and `1E3` are numbers, `1E` is a billion billions.
    if let Ok(number) = text.parse() {
        return Some(number);
    }
    let unit = text.find(|c: char| !c.is_ascii_digit() && !matches!(c, '.' | '-' | '+'))?;
    let (number, unit) = text.split_at(unit);
    let factor = match unit {
        "n" => 1e-9,
        "u" => 1e-6,
        "m" => 1e-3,
        "k" => 1e3,
        "M" => 1e6,
        "G" => 1e9,
        "T" => 1e12,
        "P" => 1e15,
        "E" => 1e18,
        "Ki" => 1024.0,
        "Mi" => f64::from(1u32 << 20),
        "Gi" => f64::from(1u32 << 30),
        "Ti" => 1024.0 * f64::from(1u32 << 30),
        "Pi" => f64::from(1u32 << 20) * f64::from(1u32 << 30),
        "Ei" => f64::from(1u32 << 30) * f64::from(1u32 << 30),
        _ => return None,
    };
    number.parse::<f64>().ok().map(|number| number * factor)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantities_read_as_kubernetes_writes_them() {
        for (text, want) in
            [("500m", 0.5), ("2", 2.0), ("2Gi", 2_147_483_648.0), ("1k", 1_000.0), ("1e3", 1_000.0), ("0.5", 0.5)]
        {
            assert_eq!(number(&Quantity(text.into())), Some(want), "{text}");
        }
        for text in ["", "x", "2Gib", "Gi"] {
            assert_eq!(number(&Quantity(text.into())), None, "{text}");
        }
    }
}
