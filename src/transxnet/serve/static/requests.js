// Requests to the server: the token, waiting where it is busy, and errors with a message for people.

const TOKEN = "transxnet-token";
const RETRIES = 3;

/** Why a request was not answered; `code` is the server's, or "unreachable". */
export class RequestError extends Error {
  constructor(message, code, status = 0) {
    super(message);
    this.code = code;
    this.status = status;
  }
}

/** The token is kept until the tab is closed, or the page where storage is forbidden. */
let token = "";
try {
  token = sessionStorage.getItem(TOKEN) ?? "";
} catch {
  // As if there were none.
}

function keep(value) {
  token = value;
  try {
    sessionStorage.setItem(TOKEN, value);
  } catch {
    // It is in the variable.
  }
}

export class Server {
  /** `ask(wrong)` asks for a token, and resolves to it or to null. */
  constructor(ask) {
    this.ask = ask;
    this.asking = null;
  }

  /** The description of the network and of the server's limits. */
  async model() {
    return (await this.request("model", {}, () => {})).answer;
  }

  /**
   * The prediction for a file: {task, prediction, seconds, roundTrip}. `waiting(seconds, attempt)` is called when the
   * server is busy.
   */
  async predict(file, query, { waiting, signal }) {
    const form = new FormData();
    form.append("image", file, file.name);
    const parameters = new URLSearchParams(query).toString();
    const { answer, roundTrip } = await this.request(
      parameters ? `predict?${parameters}` : "predict",
      { method: "POST", body: form, signal },
      waiting,
    );
    const prediction = answer.predictions[0];
    if (prediction.error) {
      throw new RequestError(prediction.error.message, prediction.error.code, prediction.error.status);
    }
    return { task: answer.task, prediction, seconds: answer.seconds.total, roundTrip };
  }

  /** An answer's JSON, after asking for a token and waiting where the server wants that. */
  async request(path, options, waiting) {
    for (let attempt = 1; ; ) {
      const began = performance.now();
      const sent = token;
      const response = await this.send(path, options);
      if (response.ok) {
        const answer = await body(response);
        return { answer, roundTrip: (performance.now() - began) / 1000 };
      }
      if (response.status === 401 && (await this.renew(sent))) continue;
      if (response.status === 503 && attempt <= RETRIES) {
        const seconds = Math.min(Math.max(Number(response.headers.get("Retry-After")) || 0, 0.2), 60);
        waiting(seconds, attempt, RETRIES);
        attempt += 1;
        await pause(seconds, options.signal);
        continue;
      }
      throw await errorOf(response);
    }
  }

  async send(path, options) {
    const headers = token ? { Authorization: `Bearer ${token}` } : {};
    try {
      return await fetch(path, { ...options, headers, cache: "no-store", credentials: "same-origin" });
    } catch (error) {
      if (error.name === "AbortError") throw error;
      throw new RequestError("The server cannot be reached.", "unreachable");
    }
  }

  /** Whether there is another token than the one that was refused; requests that wait share one question. */
  async renew(refused) {
    if (token !== refused) return true;
    this.asking ??= this.ask(refused !== "").finally(() => {
      this.asking = null;
    });
    const given = await this.asking;
    if (given === null) return false;
    keep(given);
    return true;
  }
}

/** JSON of an answer that breaks off is an unreachable server, too. */
async function body(response) {
  try {
    return await response.json();
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new RequestError("The server's answer broke off.", "unreachable");
  }
}

/** Something between, such as a proxy, answers in its own form. */
async function errorOf(response) {
  const { error } = await response.json().catch(() => ({}));
  const message = error?.message ?? `The server answered with status ${response.status} ${response.statusText}.`;
  return new RequestError(message, error?.code ?? "failed", response.status);
}

function pause(seconds, signal) {
  return new Promise((resolve, reject) => {
    const timer = setTimeout(resolve, seconds * 1000);
    signal?.addEventListener("abort", () => {
      clearTimeout(timer);
      reject(signal.reason);
    });
  });
}
