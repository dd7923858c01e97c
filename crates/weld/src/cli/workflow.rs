//! What a job of GitHub Actions says of its cache in its environment, as attributes of `type=gha`: as buildx reads it.

use std::collections::BTreeMap;

use super::fields::truth;

/// The kind of cache that is a repository's on GitHub.
pub(crate) const KIND: &str = "gha";

/// Adds what the environment says and the attributes do not; false if even so there is no token or no address.
pub(crate) fn complete(
    attrs: &mut BTreeMap<String, String>,
    variable: &dyn Fn(&str) -> Option<String>,
) -> bool {
    let is_true = |value: String| truth(&value) == Some(true);
    let second = match attrs.get("version") {
        Some(version) => version == "2",
        None => variable("ACTIONS_CACHE_SERVICE_V2").is_some_and(is_true),
    };
    let mut add = |name: &str, value: Option<String>| {
        if let Some(value) = value.filter(|_| !attrs.contains_key(name)) {
            attrs.insert(name.to_owned(), value);
        }
    };
    add("token", variable("ACTIONS_RUNTIME_TOKEN"));
    let results = || variable("ACTIONS_RESULTS_URL");
    if second {
        add("url_v2", results());
    }
    add("url", variable("ACTIONS_CACHE_URL").or_else(results));
    let has = |name: &str| attrs.get(name).is_some_and(|value| !value.is_empty());
    has("token") && (has("url") || has("url_v2"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn completed(
        given: &[(&str, &str)],
        environment: &[(&str, &str)],
    ) -> Option<Vec<(String, String)>> {
        let own = |(key, value): &(&str, &str)| ((*key).to_owned(), (*value).to_owned());
        let variables: BTreeMap<String, String> = environment.iter().map(own).collect();
        let mut attrs = given.iter().map(own).collect();
        complete(&mut attrs, &|name| variables.get(name).cloned())
            .then(|| attrs.into_iter().collect())
    }

    #[test]
    fn the_environment_adds_what_is_not_given() {
        let job = [
            ("ACTIONS_CACHE_URL", "http://v1"),
            ("ACTIONS_RESULTS_URL", "http://v2"),
            ("ACTIONS_RUNTIME_TOKEN", "t"),
        ];
        let own = |pairs: &[(&str, &str)]| {
            let pairs = pairs.iter();
            Some(
                pairs
                    .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()))
                    .collect(),
            )
        };
        assert_eq!(
            completed(&[], &job),
            own(&[("token", "t"), ("url", "http://v1")])
        );
        let mut second = job.to_vec();
        second.push(("ACTIONS_CACHE_SERVICE_V2", "True"));
        let both = [
            ("token", "t"),
            ("url", "http://v1"),
            ("url_v2", "http://v2"),
        ];
        assert_eq!(completed(&[], &second), own(&both));
        let given = [("token", "mine"), ("url", "http://mine"), ("version", "1")];
        assert_eq!(completed(&given, &second), own(&given));
        let results = [job[1], job[2]];
        assert_eq!(
            completed(&[], &results),
            own(&[("token", "t"), ("url", "http://v2")])
        );
    }

    #[test]
    fn outside_of_a_job_there_is_none() {
        assert_eq!(completed(&[], &[]), None);
        assert_eq!(completed(&[("url", "http://a")], &[]), None);
        assert_eq!(completed(&[], &[("ACTIONS_RUNTIME_TOKEN", "t")]), None);
    }
}
