//! Reading Prometheus' text format, as far as Spillway writes it.

/// One sample.
#[derive(Debug, Clone, PartialEq)]
struct Sample {
    name: String,
    labels: Vec<(String, String)>,
    value: f64,
}

/// A page of metrics.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Exposition(Vec<Sample>);

impl Exposition {
    /// Reads a page; lines that are no samples are passed over.
    pub(crate) fn parse(text: &str) -> Self {
        Self(text.lines().filter_map(sample).collect())
    }

    /// The sum of the samples of a name that carry these labels.
    pub(crate) fn sum(&self, name: &str, labels: &[(&str, &str)]) -> f64 {
        let carries = |sample: &Sample| {
            labels.iter().all(|(key, value)| {
                sample
                    .labels
                    .iter()
                    .any(|(have, has)| have == key && has == value)
            })
        };
        self.0
            .iter()
            .filter(|sample| sample.name == name && carries(sample))
            // Not `sum`, which is -0 for nothing.
            .fold(0.0, |sum, sample| sum + sample.value)
    }

    /// The samples of a name that are not zero, with the values of two of their
    /// labels.
    pub(crate) fn by<'a>(
        &'a self,
        name: &str,
        first: &str,
        second: &str,
    ) -> Vec<(&'a str, &'a str, f64)> {
        let label = |sample: &'a Sample, wanted: &str| {
            let found = sample.labels.iter().find(|(key, _)| key == wanted);
            found.map_or("", |(_, value)| value.as_str())
        };
        self.0
            .iter()
            .filter(|sample| sample.name == name && sample.value != 0.0)
            .map(|sample| (label(sample, first), label(sample, second), sample.value))
            .collect()
    }
}

fn sample(line: &str) -> Option<Sample> {
    let line = line.trim();
    if line.starts_with('#') {
        return None;
    }
    let (series, value) = line.rsplit_once(' ')?;
    let (name, labels) = match series.split_once('{') {
        Some((name, labels)) => (name, labels.strip_suffix('}')?),
        None => (series, ""),
    };
    Some(Sample {
        name: name.to_owned(),
        labels: labels
            .split(',')
            .filter_map(|label| label.split_once('='))
            .map(|(key, value)| (key.to_owned(), value.trim_matches('"').to_owned()))
            .collect(),
        value: value.parse().ok()?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn samples_are_found_by_name_and_label() {
        let page = Exposition::parse(
            "# HELP shed refusals\n# TYPE shed counter\n\
             shed{class=\"bulk\",reason=\"timeout\"} 3\n\
             shed{class=\"bulk\",reason=\"queue_full\"} 4\n\
             shed{class=\"nodes\",reason=\"timeout\"} 0\n\
             limit_seconds 0.4\nnonsense\n",
        );
        assert_eq!(page.sum("shed", &[("class", "bulk")]), 7.0);
        assert_eq!(page.sum("limit_seconds", &[]), 0.4);
        assert!(page.sum("missing", &[]).is_sign_positive());
        assert_eq!(
            page.by("shed", "class", "reason"),
            [("bulk", "timeout", 3.0), ("bulk", "queue_full", 4.0)]
        );
    }
}
