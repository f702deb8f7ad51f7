//! The order of those that wait for one provider. Pure.
//!
//! Classes of priority take turns by weight: of 21 turns, `high` has 16, `normal` 4 and `low` 1 while requests of all three wait, so
//! none starves. In a class keys take turns, and a key's requests come in the order in which they came.

use reveille_domain::{FairLine, KeyId, Priority, Turns};

/// Who waits: everybody without a key is one flow.
pub(super) type Flow = Option<KeyId>;

/// Where a request waits.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Place {
    pub priority: Priority,
    pub flow: Flow,
    /// The lowest came first.
    pub ticket: u64,
}

/// What a turn of a class costs: a sixteenth of a round, a quarter, or a whole one.
const fn cost(priority: Priority) -> u64 {
    match priority {
        Priority::High => 1,
        Priority::Normal => 4,
        Priority::Low => 16,
    }
}

/// Requests in the order in which they have their turns.
#[derive(Debug, Default)]
pub(super) struct Classes {
    turns: Turns<Priority>,
    high: FairLine<Flow>,
    normal: FairLine<Flow>,
    low: FairLine<Flow>,
}

impl Classes {
    pub fn len(&self) -> usize {
        Priority::ALL
            .map(|priority| self.line(priority).len())
            .iter()
            .sum()
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    pub fn push(&mut self, place: &Place) {
        self.turns.enter(&place.priority, cost(place.priority));
        self.line_mut(place.priority).push(&place.flow, place.ticket);
    }

    /// The ticket whose turn it is.
    pub fn pop(&mut self) -> Option<u64> {
        let priority = *self.turns.first()?;
        let line = self.line_mut(priority);
        let ticket = line.pop();
        let again = (!line.is_empty()).then_some(cost(priority));
        self.turns.take(again);
        ticket
    }

    /// Takes out a request that waits no longer. Returns whether it was there.
    pub fn remove(&mut self, place: &Place) -> bool {
        let line = self.line_mut(place.priority);
        let was_there = line.remove(&place.flow, place.ticket);
        if line.is_empty() {
            self.turns.leave(&place.priority);
        }
        was_there
    }

    /// About how many have their turn before it, if nobody comes or leaves.
    pub fn ahead_of(&self, place: &Place) -> usize {
        let own = self.line(place.priority).ahead_of(&place.flow, place.ticket);
        let turns = (own as u64 + 1).saturating_mul(cost(place.priority));
        let others = Priority::ALL
            .into_iter()
            .filter(|priority| *priority != place.priority);
        let before = others.map(|priority| {
            let most = usize::try_from(turns / cost(priority)).unwrap_or(usize::MAX);
            self.line(priority).len().min(most)
        });
        own + before.sum::<usize>()
    }

    const fn line(&self, priority: Priority) -> &FairLine<Flow> {
        match priority {
            Priority::High => &self.high,
            Priority::Normal => &self.normal,
            Priority::Low => &self.low,
        }
    }

    const fn line_mut(&mut self, priority: Priority) -> &mut FairLine<Flow> {
        match priority {
            Priority::High => &mut self.high,
            Priority::Normal => &mut self.normal,
            Priority::Low => &mut self.low,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A queue of requests such as `a:high`, in the order in which they came.
    fn queue(requests: &[&str]) -> (Classes, Vec<Place>) {
        let mut classes = Classes::default();
        let places = requests.iter().zip(0..).map(|(request, ticket)| {
            let (key, priority) = request.split_once(':').expect("a class");
            Place {
                priority: priority.parse().expect("a priority"),
                flow: (key != "-").then(|| format!("{key:k<8}").parse().expect("a key's id")),
                ticket,
            }
        });
        let places: Vec<_> = places.collect();
        for place in &places {
            classes.push(place);
        }
        (classes, places)
    }

    /// The classes in the order of their turns, by their first letters.
    fn order(mut classes: Classes, places: &[Place]) -> String {
        let mut order = String::new();
        while let Some(ticket) = classes.pop() {
            let place = &places[usize::try_from(ticket).expect("small")];
            order.extend(place.priority.to_string().chars().take(1));
        }
        order
    }

    #[test]
    fn classes_share_by_weight_and_none_starves() {
        let mut requests = vec!["a:low"; 3];
        requests.extend(["b:normal"; 9]);
        requests.extend(["c:high"; 40]);
        let (classes, places) = queue(&requests);
        let order = order(classes, &places);
        for (from, to) in [(0, 21), (21, 42)] {
            let round = &order[from..to];
            let share = ['h', 'n', 'l'].map(|class| round.matches(class).count());
            assert_eq!(share, [16, 4, 1], "{round}");
        }
        assert!(order.starts_with("hhh"), "{order}");
    }

    #[test]
    fn a_key_with_many_requests_and_callers_without_a_key_have_their_share_and_no_more() {
        let mut requests = vec!["a:normal"; 1_000];
        requests.extend(["-:normal"; 1_000]);
        requests.push("b:normal");
        let (mut classes, places) = queue(&requests);
        assert_eq!(classes.ahead_of(&places[2_000]), 2);
        assert_eq!(classes.ahead_of(&places[999]), 999 + 999 + 1);
        assert!(classes.remove(&places[0]) && !classes.remove(&places[0]));
        let first = [classes.pop(), classes.pop(), classes.pop(), classes.pop()];
        assert_eq!(first, [Some(1), Some(1_000), Some(2_000), Some(2)]);
        assert_eq!(classes.len(), 1_996);
    }

    #[test]
    fn one_is_about_as_far_from_its_turn_as_it_says() {
        let mut requests = vec!["a:low"; 2];
        requests.extend(["b:normal"; 10]);
        requests.extend(["c:high"; 10]);
        let (mut classes, places) = queue(&requests);
        let asked = [&places[0], &places[2], &places[11], &places[12]];
        let ahead = asked.map(|place| classes.ahead_of(place));
        assert_eq!(ahead, [14, 4, 21, 0]);
        let mut turns = [0; 4];
        for turn in 0.. {
            let Some(ticket) = classes.pop() else { break };
            if let Some(at) = asked.iter().position(|place| place.ticket == ticket) {
                turns[at] = turn;
            }
        }
        for (ahead, turn) in ahead.into_iter().zip(turns) {
            assert!(ahead.abs_diff(turn) <= 2, "{ahead} and {turn}");
        }
    }
}
