//! Putting keys into an order in which inputs come first, without circles, in time linear in the number of links.
//!
//! Stores may hold circles: two operations that change nothing, one upon the other and again, are found by content and so get one
//! another's keys as inputs. Three steps take them out:
//! 1. What can be *grounded*: a key is, once every input has a grounded key. The order in which that happens gives each a rank.
//! 2. The strongly connected parts of that.
//! 3. Within a part only links from a lower to a higher rank stay. Each key keeps the links that grounded it, so none is lost.

use std::collections::VecDeque;

use crate::Digest;

pub(super) struct Link {
    pub(super) from: u32,
    pub(super) to: u32,
    pub(super) input: u32,
    pub(super) selector: Option<Digest>,
}

/// What stays.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Ordered {
    /// Nodes, inputs first.
    pub(super) nodes: Vec<u32>,
    /// Links, by position.
    pub(super) links: Vec<u32>,
}

/// Links by one of their ends.
struct Adjacent {
    starts: Vec<u32>,
    links: Vec<u32>,
}

impl Adjacent {
    fn new(nodes: usize, links: &[Link], end: impl Fn(&Link) -> u32) -> Self {
        let mut starts = vec![0_u32; nodes + 1];
        for link in links {
            starts[end(link) as usize + 1] += 1;
        }
        for at in 1..starts.len() {
            starts[at] += starts[at - 1];
        }
        let mut next = starts.clone();
        let mut sorted = vec![0; links.len()];
        for (at, link) in (0..).zip(links) {
            let place = &mut next[end(link) as usize];
            sorted[*place as usize] = at;
            *place += 1;
        }
        Self {
            starts,
            links: sorted,
        }
    }

    fn of(&self, node: u32) -> &[u32] {
        let (from, to) = (self.starts[node as usize], self.starts[node as usize + 1]);
        &self.links[from as usize..to as usize]
    }
}

/// `inputs` tells for each node how many inputs it has, or `None` where nothing is known of it.
pub(super) fn order(inputs: &[Option<u32>], links: &[Link]) -> Ordered {
    let out = Adjacent::new(inputs.len(), links, |link| link.from);
    let into = Adjacent::new(inputs.len(), links, |link| link.to);
    let ranks = ranks(inputs, links, &out);
    let parts = parts(&ranks, links, &into);
    let mut nodes: Vec<u32> = (0..inputs.len() as u32)
        .filter(|node| ranks[*node as usize].is_some())
        .collect();
    nodes.sort_unstable_by_key(|node| (parts[*node as usize], ranks[*node as usize]));
    let stays = |link: &Link| {
        let (from, to) = (ranks[link.from as usize], ranks[link.to as usize]);
        from.is_some()
            && to.is_some()
            && (parts[link.from as usize] != parts[link.to as usize] || from < to)
    };
    Ordered {
        nodes,
        links: (0..)
            .zip(links)
            .filter(|(_, link)| stays(link))
            .map(|(at, _)| at)
            .collect(),
    }
}

/// When each node is grounded, if ever.
fn ranks(inputs: &[Option<u32>], links: &[Link], out: &Adjacent) -> Vec<Option<u32>> {
    let mut firsts = Vec::with_capacity(inputs.len());
    let mut count = 0_usize;
    for inputs in inputs {
        firsts.push(count);
        count += inputs.unwrap_or(0) as usize;
    }
    let mut met = vec![false; count];
    let mut missing: Vec<u32> = inputs
        .iter()
        .map(|inputs| inputs.unwrap_or(u32::MAX))
        .collect();
    let mut ranks = vec![None; inputs.len()];
    let mut waiting: VecDeque<u32> = (0..inputs.len() as u32)
        .filter(|node| missing[*node as usize] == 0)
        .collect();
    let mut next = 0;
    while let Some(node) = waiting.pop_front() {
        ranks[node as usize] = Some(next);
        next += 1;
        for link in out.of(node).iter().map(|at| &links[*at as usize]) {
            let to = link.to as usize;
            let Some(known) = inputs[to].filter(|inputs| link.input < *inputs) else {
                continue;
            };
            debug_assert!(known > 0);
            if !std::mem::replace(&mut met[firsts[to] + link.input as usize], true) {
                missing[to] -= 1;
                if missing[to] == 0 {
                    waiting.push_back(link.to);
                }
            }
        }
    }
    ranks
}

/// The number of the strongly connected part of each grounded node, inputs first (Tarjan's algorithm, without recursion).
fn parts(ranks: &[Option<u32>], links: &[Link], into: &Adjacent) -> Vec<u32> {
    const NONE: u32 = u32::MAX;
    let count = ranks.len();
    let mut part = vec![NONE; count];
    let (mut number, mut low) = (vec![NONE; count], vec![NONE; count]);
    let (mut next_number, mut next_part) = (0, 0);
    let mut open: Vec<u32> = Vec::new();
    // A node, and how many of its links were followed.
    let mut path: Vec<(u32, usize)> = Vec::new();
    for start in 0..count as u32 {
        if ranks[start as usize].is_none() || number[start as usize] != NONE {
            continue;
        }
        path.push((start, 0));
        while let Some((node, followed)) = path.last_mut() {
            let node = *node;
            let this = node as usize;
            if number[this] == NONE {
                (number[this], low[this]) = (next_number, next_number);
                next_number += 1;
                open.push(node);
            }
            if let Some(at) = into.of(node).get(*followed) {
                *followed += 1;
                let below = links[*at as usize].from;
                let other = below as usize;
                if ranks[other].is_none() {
                    continue;
                }
                if number[other] == NONE {
                    path.push((below, 0));
                } else if part[other] == NONE {
                    low[this] = low[this].min(number[other]);
                }
                continue;
            }
            path.pop();
            if let Some((above, _)) = path.last() {
                let above = *above as usize;
                low[above] = low[above].min(low[this]);
            }
            if low[this] == number[this] {
                while let Some(member) = open.pop() {
                    part[member as usize] = next_part;
                    if member == node {
                        break;
                    }
                }
                next_part += 1;
            }
        }
    }
    part
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ordered(
        inputs: &[Option<u32>],
        links: &[(u32, u32, u32)],
    ) -> (Vec<u32>, Vec<(u32, u32, u32)>) {
        let links: Vec<_> = links
            .iter()
            .map(|(from, to, input)| Link {
                from: *from,
                to: *to,
                input: *input,
                selector: None,
            })
            .collect();
        let ordered = order(inputs, &links);
        let kept = ordered.links.iter().map(|at| {
            let link = &links[*at as usize];
            (link.from, link.to, link.input)
        });
        (ordered.nodes, kept.collect())
    }

    #[test]
    fn what_cannot_be_reached_is_left_out() {
        // 1 needs 0 and something unknown; 3 needs what is left out; 4 has two ways to its input.
        let inputs = [Some(0), Some(2), None, Some(1), Some(1)];
        let links = [(0, 1, 0), (2, 1, 1), (1, 3, 0), (1, 4, 0), (0, 4, 0)];
        assert_eq!(ordered(&inputs, &links), (vec![0, 4], vec![(0, 4, 0)]));
    }

    #[test]
    fn a_circle_is_cut_where_nothing_is_lost() {
        // 0 -> 1 -> 2 -> 3 -> 1, whichever comes first in the list.
        let links = [(3, 1, 0), (2, 3, 0), (1, 2, 0), (0, 1, 0)];
        let (nodes, kept) = ordered(&[Some(0), Some(1), Some(1), Some(1)], &links);
        assert_eq!(nodes, [0, 1, 2, 3]);
        assert_eq!(kept, [(2, 3, 0), (1, 2, 0), (0, 1, 0)]);
    }

    #[test]
    fn a_long_way_round_is_no_circle() {
        // 4 is grounded by 0 at once, and the definition's chain 1 -> 2 -> 3 -> 4 is kept all the same.
        let links = [(0, 4, 0), (1, 2, 0), (2, 3, 0), (3, 4, 0)];
        let inputs = [Some(0), Some(0), Some(1), Some(1), Some(1)];
        let (nodes, kept) = ordered(&inputs, &links);
        assert_eq!(nodes.len(), 5);
        assert_eq!(kept.len(), 4);
        let place = |node| nodes.iter().position(|other| *other == node);
        assert!(kept.iter().all(|(from, to, _)| place(*from) < place(*to)));
    }
}
