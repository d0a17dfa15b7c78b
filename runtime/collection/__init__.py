"""The folder of collected images: what lies in it, what people say of it, and the formats of other tools."""
