//! Medians and their spread.

use std::time::Duration;

/// Durations of the same thing, measured several times.
#[derive(Clone, Debug, Default)]
pub(crate) struct Samples(Vec<f64>);

impl Samples {
    /// Adds a measurement.
    pub(crate) fn push(&mut self, duration: Duration) {
        self.0.push(duration.as_secs_f64());
        self.0.sort_by(f64::total_cmp);
    }

    /// Returns how many there are.
    pub(crate) const fn len(&self) -> usize {
        self.0.len()
    }

    /// Returns the median, in seconds; zero when there are none.
    pub(crate) fn median(&self) -> f64 {
        self.quantile(50)
    }

    /// Returns the value below which `percent` of the measurements are, in seconds.
    pub(crate) fn quantile(&self, percent: usize) -> f64 {
        let last = self.0.len().saturating_sub(1);
        self.0
            .get((last * percent + 50) / 100)
            .copied()
            .unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn median_and_quartiles_do_not_depend_on_the_order() {
        let mut samples = Samples::default();
        for seconds in [5, 1, 4, 2, 3] {
            samples.push(Duration::from_secs(seconds));
        }
        let quartiles = [25, 50, 75].map(|percent| samples.quantile(percent));
        assert_eq!(quartiles, [2.0, 3.0, 4.0]);
    }
}
