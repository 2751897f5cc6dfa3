//! Confidence interval of a share.

/// The normal distribution's quantile for 95 %, both sides.
const Z: f64 = 1.959_963_985;

/// The share of `passed` among `all`, and its 95 % interval by Wilson's score (E. B. Wilson, "Probable inference, the law
/// of succession, and statistical inference", JASA 22, 1927), which also holds for few trials and shares near 0 and 1.
/// Of no trials nothing is known.
pub fn wilson(passed: usize, all: usize) -> (f64, f64) {
    if all == 0 {
        return (0.0, 1.0);
    }
    let (n, share) = (all as f64, passed as f64 / all as f64);
    let z2 = Z * Z;
    let middle = share + z2 / (2.0 * n);
    let spread = Z * (share * (1.0 - share) / n + z2 / (4.0 * n * n)).sqrt();
    let scale = 1.0 + z2 / n;
    (((middle - spread) / scale).max(0.0), ((middle + spread) / scale).min(1.0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_values() {
        // 8 of 10: 0.490 to 0.943, as R's binom::binom.confint(8, 10, method = "wilson") gives.
        let (low, high) = wilson(8, 10);
        assert!((low - 0.490).abs() < 1e-3 && (high - 0.943).abs() < 1e-3, "{low} {high}");
        assert_eq!(wilson(0, 0), (0.0, 1.0));
        let (low, high) = wilson(3, 3);
        assert!((low - 0.438).abs() < 1e-3 && high == 1.0, "{low} {high}");
    }
}
