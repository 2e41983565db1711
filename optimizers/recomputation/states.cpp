// The search of states.py: A* over (operators of the graph that have run, storages that are there).

#include <algorithm>
#include <cstdint>
#include <queue>
#include <vector>

namespace {

using std::vector;
typedef uint64_t Set;  // of storages that can be made again, or that what runs again reads

constexpr int64_t NEVER = int64_t(1) << 60;
constexpr int64_t WAYS = 100;  // of making room that are tried for each state that may be looked at: one state can have thousands that lead to known ones

struct Problem {
  int operators, storages;
  int64_t budget;
  const int64_t* sizes;                                   // of storages
  const Set *reads, *writes, *reads_again, *writes_again;  // of operators
  const int64_t *during, *between;  // bytes of everything else while an operator runs for the first time, and right before
  const int64_t *cost, *temporary_again;
  const Set *needed, *useful, *must;  // before each operator: read by what comes; read by what might run again for it; irreplaceable
  const int32_t* maker;               // of storages: the operator that makes it again, or -1

  int64_t bytes(Set set) const {
    int64_t sum = 0;
    for (; set; set &= set - 1) sum += sizes[__builtin_ctzll(set)];
    return sum;
  }
};

struct Node {
  Set there;
  int64_t cost;
  int32_t at, before, ran;  // `before` is the node it comes from, `ran` what ran in between
};

struct Entry {
  int64_t least;
  int32_t at, node;
  bool operator<(const Entry& other) const {  // the queue gives out the largest: the least cost, then the farthest, then the newest
    if (least != other.least) return least > other.least;
    if (at != other.at) return at < other.at;
    return node < other.node;
  }
};

struct Search {
  const Problem& p;
  int64_t limit, upper;
  vector<Node> nodes;
  vector<int32_t> table;  // open addressing; nodes + 1
  std::priority_queue<Entry> queue;
  bool full = false;
  int64_t ways = 0;

  Search(const Problem& p, int64_t limit, int64_t upper) : p(p), limit(limit), upper(upper), table(1 << 16, 0) {}

  static size_t hash(Set there, int at) {
    uint64_t h = (there + uint64_t(at) * 0x9E3779B97F4A7C15ull) * 0xBF58476D1CE4E5B9ull;
    h ^= h >> 29, h *= 0x94D049BB133111EBull;
    return h ^ (h >> 32);
  }

  void grow() {
    vector<int32_t> larger(table.size() * 2, 0);
    for (int32_t one : table)
      if (one) {
        size_t place = hash(nodes[one - 1].there, nodes[one - 1].at) & (larger.size() - 1);
        while (larger[place]) place = (place + 1) & (larger.size() - 1);
        larger[place] = one;
      }
    table.swap(larger);
  }

  // What must run again at least once, whatever memory there is; NEVER where something irreplaceable is gone.
  int64_t least(int at, Set there) const {
    Set missing = p.needed[at] & ~there, seen = missing;
    int64_t sum = 0;
    while (missing) {
      int storage = __builtin_ctzll(missing);
      missing &= missing - 1;
      int maker = p.maker[storage];
      if (maker < 0) return NEVER;
      Set made = p.writes_again[maker];
      sum += p.cost[maker];
      missing &= ~made, seen |= made;
      Set more = p.reads_again[maker] & ~there & ~seen;
      missing |= more, seen |= more;
    }
    return sum;
  }

  void offer(int at, Set there, int64_t cost, int32_t before, int32_t ran) {
    there &= p.useful[at];
    int64_t rest = least(at, there);
    if (cost + rest >= upper) return;
    size_t place = hash(there, at) & (table.size() - 1);
    for (; table[place]; place = (place + 1) & (table.size() - 1)) {
      Node& known = nodes[table[place] - 1];
      if (known.at != at || known.there != there) continue;
      if (known.cost <= cost) return;
      known.cost = cost, known.before = before, known.ran = ran;
      queue.push({cost + rest, at, table[place] - 1});
      return;
    }
    if (int64_t(nodes.size()) >= limit) {
      full = true;
      return;
    }
    nodes.push_back({there, cost, at, before, ran});
    table[place] = nodes.size();
    queue.push({cost + rest, at, int32_t(nodes.size()) - 1});
    if (nodes.size() * 2 > table.size()) grow();
  }

  // Forgets as little as makes room, in every way, and runs an operator.
  struct Action {
    int at, after;
    int64_t cost;
    int32_t from, ran;
    Set writes;
  };

  void make_room(const Action& action, Set there, const vector<int>& spare, size_t next, int64_t over, int64_t rest) {
    if (++ways > limit * WAYS) full = true;
    if (over <= 0) {
      offer(action.after, there | action.writes, action.cost, action.from, action.ran);
      return;
    }
    if (full) return;
    for (; next < spare.size() && rest >= over; next++) {
      int64_t size = p.sizes[spare[next]];
      make_room(action, there & ~(Set(1) << spare[next]), spare, next + 1, over - size, rest - size);
      rest -= size;
    }
  }

  void run(const Action& action, Set there, Set reads, int64_t others) {
    if (reads & ~there) return;
    int64_t over = p.bytes(there | action.writes) + others - p.budget, rest = 0;
    vector<int> spare;
    if (over > 0) {
      for (Set set = there & ~reads & ~action.writes & ~p.must[action.after]; set; set &= set - 1) spare.push_back(__builtin_ctzll(set));
      std::stable_sort(spare.begin(), spare.end(), [&](int a, int b) { return p.sizes[a] > p.sizes[b]; });
      for (int one : spare) rest += p.sizes[one];
    }
    make_room(action, there, spare, 0, over, rest);
  }

  // The node of the end, -1 where there is none cheaper than `upper`, -2 where the limit is reached. `bound` is what no schedule stays below.
  int32_t best(int64_t* bound) {
    offer(0, 0, 0, -1, -1);
    *bound = 0;
    while (!queue.empty()) {
      Entry top = queue.top();
      queue.pop();
      Node node = nodes[top.node];
      if (top.least > node.cost + least(node.at, node.there)) continue;  // a cheaper way was found since
      *bound = std::max(*bound, top.least);
      if (node.at == p.operators) return top.node;
      int at = node.at;
      run({at, at + 1, node.cost, top.node, at, p.writes[at]}, node.there, p.reads[at], p.during[at]);
      for (int again = 0; again < at; again++) {
        if (p.cost[again] < 0 || !(p.writes_again[again] & p.useful[at] & ~node.there)) continue;
        run({at, at, node.cost + p.cost[again], top.node, again, p.writes_again[again]}, node.there, p.reads_again[again],
            p.between[at] + p.temporary_again[again]);
      }
      if (full) return -2;
    }
    *bound = upper;
    return -1;
  }
};

}  // namespace

extern "C" {

// Sets are given one after another in one array, and so are numbers, in the order of Problem. Returns how long the schedule is, or as `best`;
// in `order` the operators that run, in order: the first run of each comes where all before it have run.
int cheapest(int operators, int storages, int64_t budget, const int64_t* sizes, const uint64_t* sets, const int64_t* numbers,
             const int32_t* maker, int64_t limit, int64_t upper, int64_t* out, int32_t* order, int longest) {
  const uint64_t* later = sets + 4 * operators;
  const Problem problem{operators, storages, budget, sizes, sets, sets + operators, sets + 2 * operators, sets + 3 * operators,
                        numbers, numbers + operators, numbers + 2 * operators, numbers + 3 * operators,
                        later, later + operators + 1, later + 2 * (operators + 1), maker};
  Search search(problem, limit, upper);
  int32_t end = search.best(out);
  out[1] = search.nodes.size();
  if (end < 0) return end;
  out[2] = search.nodes[end].cost;
  vector<int32_t> path;
  for (; search.nodes[end].before >= 0; end = search.nodes[end].before) path.push_back(search.nodes[end].ran);
  if (int(path.size()) > longest) return -2;
  std::reverse_copy(path.begin(), path.end(), order);
  return path.size();
}
}
