//! What the stages of a build need of each other.

use std::collections::BTreeSet;

use super::ConvertError;
use super::stages::Converter;
use crate::error::Error;
use crate::source::LineRange;

impl Converter<'_> {
    /// What a node needs, and the lines that say so.
    fn needs(&self, node: usize) -> Vec<(usize, LineRange)> {
        let Some(node) = self.nodes.get(node) else {
            return Vec::new();
        };
        let base = node.base.map(|base| (base, node.lines));
        let commands = node.commands.iter().flat_map(|command| {
            let lines = command.instruction.lines;
            command
                .sources
                .iter()
                .flatten()
                .map(move |&source| (source, lines))
        });
        base.into_iter().chain(commands).collect()
    }

    /// No stage may need itself. Depth-first, without recursion.
    pub(super) fn check_cycles(&self) -> Result<(), Error> {
        let mut done = vec![false; self.nodes.len()];
        for start in 0..self.nodes.len() {
            // A node, what it needs that has not been looked at, and the lines that led to it.
            let mut stack = vec![(start, self.needs(start), LineRange::default())];
            while let Some((node, needs, _)) = stack.last_mut() {
                let node = *node;
                let Some((next, lines)) = needs.pop() else {
                    if let Some(done) = done.get_mut(node) {
                        *done = true;
                    }
                    stack.pop();
                    continue;
                };
                if let Some(begin) = stack.iter().position(|(open, _, _)| *open == next) {
                    let path = stack.iter().skip(begin + 1).map(|(_, _, lines)| *lines);
                    return Err(self.cycle(next, path.chain([lines]).collect()));
                }
                if done.get(next) == Some(&false) {
                    stack.push((next, self.needs(next), lines));
                }
            }
        }
        Ok(())
    }

    fn cycle(&self, node: usize, lines: Vec<LineRange>) -> Error {
        let stage = self.nodes.get(node).map(|node| node.label.clone());
        let error = Error::new(ConvertError::Cycle {
            stage: stage.unwrap_or_default(),
        });
        lines.into_iter().fold(error, Error::also_at)
    }

    /// The nodes that `target` needs, itself included.
    pub(super) fn reachable(&self, target: usize) -> BTreeSet<usize> {
        let mut reachable = BTreeSet::new();
        let mut open = vec![target];
        while let Some(node) = open.pop() {
            if reachable.insert(node) {
                open.extend(self.needs(node).into_iter().map(|(node, _)| node));
            }
        }
        reachable
    }

    /// The same, each before what it needs and as soon as it is needed.
    pub(super) fn in_order_of_need(&self, target: usize) -> Vec<usize> {
        let mut order = Vec::new();
        let mut open = vec![target];
        while let Some(node) = open.pop() {
            if !order.contains(&node) {
                order.push(node);
                let needs = self.needs(node).into_iter().rev();
                open.extend(needs.map(|(node, _)| node));
            }
        }
        order
    }
}
