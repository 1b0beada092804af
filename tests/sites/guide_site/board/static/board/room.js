// A chat room by name, the second of the guide's two scripts: typing indicators, notices,
// and another attempt a fixed time after every close.

class RoomChat {
    constructor(roomName, username) {
        this.roomName = roomName;
        this.username = username;
        this.socket = null;
        this.connect();
    }

    connect() {
        const scheme = window.location.protocol === "https:" ? "wss" : "ws";
        this.socket = new WebSocket(
            `${scheme}://${window.location.host}/ws/room/${this.roomName}/`
        );

        this.socket.onopen = (e) => this.showStatus("Connected");
        this.socket.onmessage = (e) => this.handleMessage(JSON.parse(e.data));
        this.socket.onclose = (e) => {
            this.showStatus("Disconnected");
            setTimeout(() => this.connect(), 300);
        };
        this.socket.onerror = (e) => console.error("socket error", e);
    }

    handleMessage(data) {
        switch (data.type) {
            case "chat_message":
                this.addLine("message", `${data.username}: ${data.message}`);
                break;
            case "user_joined":
            case "user_left":
                this.addLine("system-message", data.message);
                break;
            case "typing":
                this.showTyping(data);
                break;
        }
    }

    sendMessage(message) {
        if (this.socket.readyState === WebSocket.OPEN) {
            this.socket.send(JSON.stringify({ type: "chat_message", message: message }));
        }
    }

    sendTyping(isTyping) {
        if (this.socket.readyState === WebSocket.OPEN) {
            this.socket.send(JSON.stringify({ type: "typing", is_typing: isTyping }));
        }
    }

    addLine(className, text) {
        const messages = document.getElementById("chat-messages");
        const line = document.createElement("div");
        line.className = className;
        line.textContent = text;
        messages.appendChild(line);
        messages.scrollTop = messages.scrollHeight;
    }

    showTyping(data) {
        const id = `typing-${data.username}`;
        const known = document.getElementById(id);
        if (data.is_typing && !known) {
            const indicator = document.createElement("div");
            indicator.id = id;
            indicator.textContent = `${data.username} is typing...`;
            document.getElementById("typing-indicators").appendChild(indicator);
        } else if (!data.is_typing && known) {
            known.remove();
        }
    }

    showStatus(status) {
        const element = document.getElementById("connection-status");
        element.textContent = status;
        element.className = status.toLowerCase();
    }
}

const facts = document.body.dataset;
const chat = new RoomChat(facts.room, facts.username);

document.getElementById("send-button").onclick = () => {
    const input = document.getElementById("message-input");
    const message = input.value.trim();
    if (message) {
        chat.sendMessage(message);
        input.value = "";
    }
};

let typingTimer;
document.getElementById("message-input").onkeypress = (e) => {
    chat.sendTyping(true);
    clearTimeout(typingTimer);
    typingTimer = setTimeout(() => {
        chat.sendTyping(false);
    }, 1000);
};
