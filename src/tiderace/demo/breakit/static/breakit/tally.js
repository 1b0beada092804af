// Counts numbered messages: which are missing, doubled or out of order.

export class Tally {
  sent = 0;
  received = 0;
  doubled = 0;
  disordered = 0;
  #seen = new Map(); // by series: the numbers received
  #last = new Map(); // by series: the largest of them
  #acknowledged = new Map(); // by series: the numbers that the server has

  /** The server has accepted a number of a series. */
  acknowledge(series, number) {
    this.sent++;
    this.#numbers(this.#acknowledged, series).add(number);
  }

  receive(series, number) {
    const seen = this.#numbers(this.#seen, series);
    if (seen.has(number)) {
      this.doubled++;
      return;
    }
    this.received++;
    seen.add(number);
    if (number < (this.#last.get(series) ?? -1)) this.disordered++;
    else this.#last.set(series, number);
  }

  /** The acknowledged numbers that were not received. */
  get missing() {
    let missing = 0;
    for (const [series, numbers] of this.#acknowledged) {
      const seen = this.#numbers(this.#seen, series);
      for (const number of numbers) missing += !seen.has(number);
    }
    return missing;
  }

  #numbers(map, series) {
    if (!map.has(series)) map.set(series, new Set());
    return map.get(series);
  }
}
