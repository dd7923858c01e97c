/// Environment variables in the order in which they were last set.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct EnvList(Vec<(String, String)>);

impl EnvList {
    /// No variables.
    pub fn new() -> Self {
        Self::default()
    }

    /// Sets `name`; it becomes the last.
    pub fn set(&mut self, name: impl Into<String>, value: impl Into<String>) {
        let name = name.into();
        self.unset(&name);
        self.0.push((name, value.into()));
    }

    /// Removes `name`.
    pub fn unset(&mut self, name: &str) {
        self.0.retain(|(other, _)| other != name);
    }

    /// The value of `name`.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.0
            .iter()
            .find(|(other, _)| other == name)
            .map(|(_, value)| value.as_str())
    }

    /// Names and values.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0
            .iter()
            .map(|(name, value)| (name.as_str(), value.as_str()))
    }

    /// `NAME=value` of each.
    pub fn to_vec(&self) -> Vec<String> {
        self.iter()
            .map(|(name, value)| format!("{name}={value}"))
            .collect()
    }
}

impl<N: Into<String>, V: Into<String>> FromIterator<(N, V)> for EnvList {
    fn from_iter<T: IntoIterator<Item = (N, V)>>(variables: T) -> Self {
        let mut list = Self::new();
        for (name, value) in variables {
            list.set(name, value);
        }
        list
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_variable_set_again_moves_to_the_end() {
        let mut list: EnvList = [("A", "1"), ("B", "2")].into_iter().collect();
        list.set("A", "3");
        assert_eq!(list.to_vec(), ["B=2", "A=3"]);
        list.unset("B");
        assert_eq!(list.get("B"), None);
    }
}
