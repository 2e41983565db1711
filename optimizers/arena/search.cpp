// The search of search.py, step by step the same, compiled: see there for what it does and why. Loops over sections are plain so that
// the compiler makes them vector code.

#include <algorithm>
#include <array>
#include <chrono>
#include <cstdint>
#include <utility>
#include <vector>

namespace {

using std::vector;

constexpr int ROUNDS = 3;  // of inference at one node, as in search.py

double now() { return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count(); }

template <class T>
struct Search {
  int count, sections;
  T capacity;
  vector<T> size, low, offset;
  vector<int> first, last, rank;
  int64_t limit;
  double deadline;
  bool jump;

  int64_t nodes = 0;
  bool stopped = false, ordered = false;
  vector<uint64_t> blame;
  vector<T> load, lowest, second, lowest_size, lift, waiting;
  vector<int> crossing;
  vector<std::pair<int, T>> trail;

  void prepare() {
    low.assign(count, 0), offset.assign(count, 0), blame.assign((count + 63) / 64, 0);
    for (auto* each : {&load, &lowest, &second, &lowest_size, &lift, &waiting}) each->assign(sections, 0);
    crossing.assign(sections, 0);
    for (int u = 0; u < count; u++) open_again(u, 1);
  }

  void open_again(int u, int by) {
    for (int s = first[u]; s < last[u]; s++) waiting[s] += by * size[u];
    for (int s = first[u]; s + 1 < last[u]; s++) crossing[s] += by;
  }

  void undo(size_t mark) {
    for (; trail.size() > mark; trail.pop_back()) low[trail.back().first] = trail.back().second;
  }

  void raise(int u, T to) { trail.push_back({u, low[u]}), low[u] = to; }

  bool before(int a, int b) const { return low[a] != low[b] ? low[a] < low[b] : rank[a] < rank[b]; }

  void mark(vector<uint64_t>& set, int u) const { set[u >> 6] |= uint64_t(1) << (u & 63); }

  bool blamed(int u) const { return blame[u >> 6] >> (u & 63) & 1; }

  void blame_only(int u, bool order) { std::fill(blame.begin(), blame.end(), 0), mark(blame, u), ordered = order; }

  bool fits(const vector<int>& open, T floor, int from, int to) {
    T* sum = load.data();
    std::fill(sum + from, sum + to, T(0));
    for (size_t k = open.size(); k-- > 0;) {
      int u = open[k], end = last[u];
      T more = size[u], most = 0, room = capacity - std::max(low[u], floor);
      for (int s = first[u]; s < end; s++) sum[s] += more, most = std::max(most, sum[s]);
      if (most > room) return explain(open, k, room);
    }
    return true;
  }

  bool explain(const vector<int>& open, size_t k, T room) {
    int s = first[open[k]];
    while (load[s] <= room) s++;
    T needed = capacity - load[s] + 1;
    std::fill(blame.begin(), blame.end(), 0), ordered = false;
    for (; k < open.size(); k++) {
      int v = open[k];
      if (first[v] <= s && s < last[v]) mark(blame, v), ordered |= low[v] < needed;
    }
    return false;
  }

  bool infer(vector<int>& open, T floor, int from, int to) {
    std::fill(lowest.begin() + from, lowest.begin() + to, capacity + 1);
    std::fill(second.begin() + from, second.begin() + to, capacity + 1);
    T *one = lowest.data(), *two = second.data(), *held = lowest_size.data(), *lifted = lift.data();
    for (int u : open) {
      T at = std::max(low[u], floor), more = size[u];
      for (int s = first[u], end = last[u]; s < end; s++) {
        two[s] = std::min(two[s], std::max(one[s], at));
        held[s] = at < one[s] ? more : held[s];
        one[s] = std::min(one[s], at);
      }
    }
    T any = -1;
    for (int s = from; s < to; s++) {
      bool forced = two[s] <= capacity && two[s] + load[s] > capacity;
      lifted[s] = forced ? one[s] + held[s] : T(-1);
      any = std::max(any, lifted[s]);
    }
    if (any < 0) return false;
    bool changed = false;
    for (int u : open) {
      T at = std::max(low[u], floor), to_low = low[u];
      for (int s = first[u], end = last[u]; s < end; s++) to_low = std::max(to_low, at > one[s] ? lifted[s] : T(-1));
      if (to_low > low[u]) raise(u, to_low), changed = true;
    }
    if (changed) settle(open);
    return changed;
  }

  // Sorts a list in which a few went up: each moves right past those that are now before it.
  void settle(vector<int>& open) {
    for (size_t i = open.size() - 1; i-- > 0;) {
      int u = open[i];
      size_t k = i;
      for (; k + 1 < open.size() && before(open[k + 1], u); k++) open[k] = open[k + 1];
      open[k] = u;
    }
  }

  bool consistent(vector<int>& open, T floor, int from, int to) {
    if (!fits(open, floor, from, to)) return false;
    for (int round = 0; round < ROUNDS && infer(open, floor, from, to); round++)
      if (!fits(open, floor, from, to)) return false;
    return true;
  }

  bool parts(const vector<int>& open, T floor, int after) {
    vector<int> by_time(open);
    std::sort(by_time.begin(), by_time.end(), [&](int a, int b) { return first[a] != first[b] ? first[a] < first[b] : a < b; });
    vector<std::array<int, 3>> found;  // buffers, from, to
    for (int u : by_time) {
      if (found.empty() || first[u] >= found.back()[2]) found.push_back({0, first[u], 0});
      found.back()[0]++, found.back()[2] = std::max(found.back()[2], last[u]);
    }
    std::sort(found.begin(), found.end());
    for (auto [many, from, to] : found) {
      vector<int> part;
      part.reserve(many);
      for (int u : open)
        if (first[u] >= from && last[u] <= to) part.push_back(u);
      if (!node(part, floor, after, from, to)) return false;
    }
    return true;
  }

  // Puts `b` where it may stand at the lowest; `rest` becomes the open buffers without it, in order.
  bool place(const vector<int>& open, int b, vector<int>& rest) {
    T top = low[b] + size[b];
    vector<int> raised;
    rest.clear();
    for (int u : open) {
      if (u == b) continue;
      if (first[u] < last[b] && first[b] < last[u] && low[u] < top) {
        if (top + size[u] > capacity) return blame_only(u, true), false;
        raise(u, top), raised.push_back(u);
      } else {
        rest.push_back(u);
      }
    }
    size_t middle = rest.size();
    rest.insert(rest.end(), raised.begin(), raised.end());
    auto less = [&](int a, int c) { return before(a, c); };
    std::sort(rest.begin() + middle, rest.end(), less);
    std::inplace_merge(rest.begin(), rest.begin() + middle, rest.end(), less);
    return true;
  }

  // A glance before `place`: what waits in each section must fit above `at`, and in those of `b` above its top.
  bool room_left(const vector<int>& open, int b, int from, int to) {
    T at = low[b], top = at + size[b], most = 0, here = 0;
    const T* more = waiting.data();
    for (int s = from; s < to; s++) most = std::max(most, more[s]);
    for (int s = first[b]; s < last[b]; s++) here = std::max(here, more[s]);
    bool above = here > 0 && here + top > capacity;
    if (!above && !(most > 0 && most + at > capacity)) return true;
    int s = above ? first[b] : from;
    while (more[s] != (above ? here : most)) s++;
    std::fill(blame.begin(), blame.end(), 0), ordered = true;
    for (int u : open)
      if (u != b && first[u] <= s && s < last[u]) mark(blame, u);
    return false;
  }

  bool child(const vector<int>& open, int b, vector<int>& rest, int from, int to) {
    open_again(b, -1);
    bool solved = room_left(open, b, from, to) && descend(open, b, rest, from, to);
    open_again(b, 1);
    return solved;
  }

  bool descend(const vector<int>& open, int b, vector<int>& rest, int from, int to) {
    T at = low[b];
    if (!place(open, b, rest) || !consistent(rest, at, from, to)) return false;
    offset[b] = at;
    bool cut = rest.empty() || first[b] == from || last[b] == to;
    for (int s = first[b]; s + 1 < last[b]; s++) cut |= crossing[s] == 0;
    return cut ? parts(rest, at, rank[b]) : node(rest, at, rank[b], from, to);
  }

  bool node(const vector<int>& open, T floor, int after, int from, int to) {
    if (open.size() == 1) {
      int u = open[0];
      offset[u] = low[u];
      return low[u] + size[u] <= capacity || (blame_only(u, true), false);
    }
    T useful = capacity;
    for (int u : open) useful = std::min(useful, low[u] + size[u]);
    vector<uint64_t> reasons(blame.size(), 0);
    vector<int> rest;
    rest.reserve(open.size());
    bool tried = false;
    for (int b : open) {
      if (low[b] >= useful) break;
      if (low[b] < floor || (low[b] == floor && rank[b] < after)) continue;
      if (++nodes > limit || ((nodes & 127) == 0 && now() > deadline)) return stopped = true, false;
      size_t before_child = trail.size();
      if (child(open, b, rest, from, to)) return true;
      bool involved = ordered;
      for (size_t i = before_child; i < trail.size(); i++) involved |= blamed(trail[i].first);
      undo(before_child);
      if (stopped || (jump && !involved)) return false;
      for (size_t i = 0; i < reasons.size(); i++) reasons[i] |= blame[i];
      mark(reasons, b), tried = true;
    }
    if (!tried)
      for (int u : open) mark(reasons, u);
    blame = reasons, ordered = false;
    return false;
  }
};

template <class T>
int run(int count, int sections, int64_t capacity, const int64_t* sizes, const int32_t* first, const int32_t* last, const int32_t* rank,
        int64_t limit, double seconds, int jump, int64_t* offsets, int64_t* nodes) {
  Search<T> search;
  search.count = count, search.sections = sections, search.capacity = T(capacity);
  search.size.assign(sizes, sizes + count), search.first.assign(first, first + count);
  search.last.assign(last, last + count), search.rank.assign(rank, rank + count);
  search.limit = limit, search.deadline = now() + seconds, search.jump = jump;
  search.prepare();
  vector<int> open(count);
  for (int u = 0; u < count; u++) open[rank[u]] = u;
  bool solved = search.consistent(open, 0, 0, sections) && search.parts(open, 0, -1);
  std::copy(search.offset.begin(), search.offset.end(), offsets);
  *nodes = search.nodes;
  return solved ? 1 : search.stopped ? 2 : 0;
}

}  // namespace

// 0: there is no plan (with jump: none was found), 1: solved, 2: stopped by the limit of nodes or seconds.
extern "C" int attempt(int count, int sections, int64_t capacity, const int64_t* sizes, const int32_t* first, const int32_t* last,
                       const int32_t* rank, int64_t limit, double seconds, int jump, int64_t* offsets, int64_t* nodes) {
  auto chosen = capacity < (int64_t(1) << 29) ? run<int32_t> : run<int64_t>;
  return chosen(count, sections, capacity, sizes, first, last, rank, limit, seconds, jump, offsets, nodes);
}
