"""An invoice, made from an order: a function on an unchanged Fn function library."""

import io
import json
import os

from fdk import response


def handler(ctx, data: io.BytesIO = None):
    try:
        order = json.loads(data.getvalue() or b"{}")
        lines = [(str(item["name"]), int(item["count"]), int(item["price"])) for item in order.get("items", [])]
    except (ValueError, KeyError, TypeError, AttributeError):
        return answer(ctx, {"message": "an order has items, each with name, count and price"}, 400)
    return answer(ctx, {
        "greeting": os.environ.get("GREETING", ""),
        "customer": order.get("customer"),
        "lines": [{"name": name, "total": count * price} for name, count, price in lines],
        "total": sum(count * price for _, count, price in lines),
        "call": ctx.CallID(),
    })


def answer(ctx, body, status=200):
    return response.Response(
        ctx, response_data=json.dumps(body), headers={"Content-Type": "application/json"}, status_code=status)
