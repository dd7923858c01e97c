//! What is to be scanned beside the result where somebody wants a list of what is in it.

use std::collections::{BTreeMap, BTreeSet};

use weld_llb::pb;

use super::ConvertError;
use super::args::{SCAN_CONTEXT, SCAN_STAGE};
use super::stages::{Converter, Node};
use crate::error::Error;

/// The main context's name among what is scanned.
const CONTEXT: &str = "context";

impl Converter<'_> {
    /// The main context, if the target wants it scanned, and those stages that `target` needs and
    /// that want to be, by name; `needed` has the target itself too.
    pub(super) fn scanned(
        &self,
        target: usize,
        needed: &BTreeSet<usize>,
    ) -> Result<BTreeMap<String, pb::Definition>, Error> {
        let mut scanned = BTreeMap::new();
        let node = self.nodes.get(target);
        if node.is_some_and(|node| self.wants(node, SCAN_CONTEXT)) {
            scanned.insert(CONTEXT.to_owned(), self.context_output);
        }
        for &stage in needed {
            // Behind the stages are the images that they are based on, which nobody wrote here.
            let node = self.nodes.get(stage).filter(|_| !self.is_image(stage));
            if let Some(node) = node.filter(|node| self.wants(node, SCAN_STAGE))
                && stage != target
            {
                let output = node.state.as_ref().and_then(|state| state.output);
                scanned.insert(node.label.clone(), output);
            }
        }
        let mut definitions = BTreeMap::new();
        for (name, output) in scanned {
            let made = self.builder.definition(output, &self.target_platform);
            definitions.insert(name, made.map_err(ConvertError::from)?);
        }
        Ok(definitions)
    }

    /// Whether a stage has an argument of this name that is true, or names the stage. One of its
    /// own, or of what it is based on, counts for more than that before the first `FROM`.
    fn wants(&self, node: &Node, argument: &str) -> bool {
        let names_it = |value: &str| match value {
            "1" | "t" | "T" | "true" | "TRUE" | "True" => true,
            "0" | "f" | "F" | "false" | "FALSE" | "False" => false,
            names => names.split(',').any(|name| name == node.label),
        };
        let own = node.args.iter().rev();
        let own = own.filter(|(name, _)| name == argument);
        let own = own.filter_map(|(_, value)| value.as_deref()).next();
        own.or_else(|| self.globals.get(argument))
            .is_some_and(names_it)
    }
}
