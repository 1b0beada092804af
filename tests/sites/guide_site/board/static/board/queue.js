// A chat over one socket, the first of the guide's two scripts: four handlers bound to
// an object, a queue while the socket is not open, and a growing delay between attempts.

class QueueingChat {
    constructor(url) {
        this.url = url;
        this.ws = null;
        this.waiting = [];
        this.attempts = 0;
        this.maxAttempts = 8;
        this.firstDelay = 100;
        this.closes = [];

        this.connect();
    }

    connect() {
        this.ws = new WebSocket(this.url);

        this.ws.onopen = this.handleOpen.bind(this);
        this.ws.onmessage = this.handleMessage.bind(this);
        this.ws.onclose = this.handleClose.bind(this);
        this.ws.onerror = this.handleError.bind(this);
    }

    handleOpen(event) {
        this.attempts = 0;
        while (this.waiting.length > 0) {
            this.ws.send(this.waiting.shift());
        }
        this.showStatus("connected");
    }

    handleMessage(event) {
        try {
            const data = JSON.parse(event.data);
            switch (data.type) {
                case "chat":
                    this.addLine(`${data.user}: ${data.message}`);
                    break;
                case "user_joined":
                    this.addLine(`${data.user} joined`, "system-message");
                    break;
                case "error":
                    document.getElementById("errors").textContent = data.message;
                    break;
            }
        } catch (error) {
            console.error("not understood:", error);
        }
    }

    handleClose(event) {
        this.closes.push(event.code);
        this.showStatus("disconnected");
        if (event.code !== 1000 && this.attempts < this.maxAttempts) {
            this.tryLater();
        }
    }

    handleError(error) {
        this.showStatus("error");
    }

    send(message) {
        const text = JSON.stringify(message);
        if (this.ws.readyState === WebSocket.OPEN) {
            this.ws.send(text);
        } else {
            this.waiting.push(text);
        }
    }

    tryLater() {
        this.attempts++;
        setTimeout(() => this.connect(), this.firstDelay * Math.pow(2, this.attempts - 1));
    }

    close(code = 1000, reason = "done") {
        if (this.ws) {
            this.ws.close(code, reason);
        }
    }

    showStatus(status) {
        const element = document.getElementById("status");
        element.textContent = status;
        element.className = `status ${status}`;
    }

    addLine(text, className = "message") {
        const line = document.createElement("div");
        line.className = className;
        line.textContent = text;
        document.getElementById("messages").appendChild(line);
    }
}

const chat = new QueueingChat(`ws://${window.location.host}/ws/lobby/`);

document.getElementById("send").onclick = () => {
    const input = document.getElementById("input");
    const message = input.value.trim();
    if (message) {
        chat.send({ type: "chat", message: message, user: "somebody" });
        input.value = "";
    }
};

// Browsers refuse the code 1001 from a script; the page goes all the same.
window.addEventListener("beforeunload", () => {
    chat.close(1001, "the page goes");
});
